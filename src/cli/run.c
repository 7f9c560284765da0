/* anykvm run: boots a kernel on a virtual PC whose serial console is this terminal. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "anykvm.h"
#include "base/log.h"
#include "cli/cli.h"
#include "monitor/accel.h"
#include "monitor/kvm_if_sys.h"
#include "monitor/machine.h"

/* A console on COM1, and a panic ends the run. What the user appends comes behind and so prevails. */
#define DEFAULT_CMDLINE "console=ttyS0 panic=-1"
#define DEFAULT_MEMORY (512ull << 20)

enum accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_SOFT };

struct options {
	struct machine_config machine;
	const char *append;
	enum accel accel;
	bool reboot, perf_map;
};

static const char help[] =
	"Usage: anykvm run -k KERNEL [options]\n"
	"\n"
	"Boots KERNEL on a virtual PC. Its first serial port is this terminal.\n"
	"\n"
	"  -k, --kernel FILE     the kernel: a Linux bzImage, a vmlinux, or an ELF image with a PVH entry\n"
	"  -i, --initrd FILE     initial RAM disk\n"
	"  -a, --append STRING   added to the kernel's command line, behind \"" DEFAULT_CMDLINE "\"\n"
	"  -c, --cpus N          processors (1)\n"
	"  -m, --mem SIZE        memory, as in 512M or 2G; a plain number is in MiB (512M)\n"
	"      --accel WHICH     auto: the kernel's KVM if it passes a test, else anykvm's own (default);\n"
	"                        kvm: the kernel's; soft: anykvm's own\n"
	"      --engine ENGINE   how anykvm's own runs the guest: jit (the default), interp or lockstep\n"
	"      --reboot          a guest that resets starts anew, instead of ending the run\n"
	"      --stats           at the end, what the run cost: exits, where they were, and KVM's own counters\n"
	"      --jit-cache SIZE  of the code that the jit keeps for each CPU, 128K to 64M (32M)\n"
	"      --perf-map        lets perf(1) name guest code that the jit runs, by /tmp/perf-PID.map\n"
	"  -h, --help            this text\n"
	"\n"
	"At the terminal, Ctrl-A x ends the run and Ctrl-A h helps.\n"
	"Exit status: 0 when the guest powers off or resets, what it writes to port 0xf4,\n"
	"1 for an error, 2 for a wrong option, 3 for a guest that crashed, 128 + N after signal N.\n";

static bool one_of(const char *text, const char *const names[], unsigned n, unsigned *which)
{
	for (*which = 0; *which < n; (*which)++)
		if (!strcmp(text, names[*which]))
			return true;
	return false;
}

static int take_cpus(struct options *o, const char *arg)
{
	u64 n;

	if (!cli_parse_count(arg, &n) || n < 1 || n > MACHINE_MAX_CPUS)
		return cli_usage_error("run", "-c wants a number of CPUs from 1 to %u, not '%s'", MACHINE_MAX_CPUS,
				       arg);
	o->machine.nr_cpus = (unsigned)n;
	return 0;
}

static int take_memory(struct options *o, const char *arg)
{
	u64 bytes;

	if (!cli_parse_size(arg, &bytes))
		return cli_usage_error("run", "-m wants a size such as 512M or 2G, not '%s'", arg);
	if (bytes < MACHINE_MIN_MEMORY || bytes > MACHINE_MAX_MEMORY)
		return cli_usage_error("run", "-m wants a size from %lluM to %lluT, not '%s'", MACHINE_MIN_MEMORY >> 20,
				       MACHINE_MAX_MEMORY >> 40, arg);
	o->machine.memory = ALIGN_DOWN(bytes, (u64)PAGE_SIZE);
	return 0;
}

static int take_jit_cache(const char *arg)
{
	u64 bytes;

	if (!cli_parse_size(arg, &bytes) || anykvm_jit_cache(bytes))
		return cli_usage_error("run", "--jit-cache wants a size from 128K to 64M, not '%s'", arg);
	return 0;
}

/* Returns 0, or a status to exit with. -1: help was asked for. */
static int parse(struct options *o, int argc, char **argv)
{
	enum { OPT_ACCEL = 256, OPT_ENGINE, OPT_REBOOT, OPT_STATS, OPT_PERF_MAP, OPT_JIT_CACHE };
	static const struct option longs[] = {
		{"kernel", required_argument, NULL, 'k'}, {"initrd", required_argument, NULL, 'i'},
		{"append", required_argument, NULL, 'a'}, {"cpus", required_argument, NULL, 'c'},
		{"mem", required_argument, NULL, 'm'},    {"accel", required_argument, NULL, OPT_ACCEL},
		{"engine", required_argument, NULL, OPT_ENGINE}, {"reboot", no_argument, NULL, OPT_REBOOT},
		{"stats", no_argument, NULL, OPT_STATS},  {"perf-map", no_argument, NULL, OPT_PERF_MAP},
		{"jit-cache", required_argument, NULL, OPT_JIT_CACHE},
		{"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
	};
	static const char *const accels[] = {"auto", "kvm", "soft"};
	unsigned which;
	int c, rc = 0;

	opterr = 0;
	while (!rc && (c = getopt_long(argc, argv, "+:k:i:a:c:m:h", longs, NULL)) != -1) {
		switch (c) {
		case 'k': o->machine.kernel = optarg; break;
		case 'i': o->machine.initrd = optarg; break;
		case 'a': o->append = optarg; break;
		case 'c': rc = take_cpus(o, optarg); break;
		case 'm': rc = take_memory(o, optarg); break;
		case 'h': return -1;
		case OPT_REBOOT: o->reboot = true; break;
		case OPT_STATS: o->machine.stats = true; break;
		case OPT_PERF_MAP: o->perf_map = true; break;
		case OPT_JIT_CACHE: rc = take_jit_cache(optarg); break;
		case OPT_ACCEL:
			if (!one_of(optarg, accels, ARRAY_SIZE(accels), &which))
				return cli_usage_error("run", "--accel wants auto, kvm or soft, not '%s'", optarg);
			o->accel = (enum accel)which;
			break;
		case OPT_ENGINE:
			if (anykvm_set_engine(optarg))
				return cli_usage_error("run", "--engine wants interp, jit or lockstep, not '%s'",
						       optarg);
			break;
		case ':': return cli_usage_error("run", "option '%s' wants an argument", argv[optind - 1]);
		default:
			if (optopt && optopt < OPT_ACCEL && strncmp(argv[optind - 1], "--", 2))
				return cli_usage_error("run", "unknown option '-%c'", optopt);
			return cli_usage_error("run", "unknown option '%s'", argv[optind - 1]);
		}
	}
	if (rc)
		return rc;
	if (optind < argc)
		return cli_usage_error("run", "'%s' is one argument too many", argv[optind]);
	if (!o->machine.kernel)
		return cli_usage_error("run", "no kernel given: use -k FILE");
	return 0;
}

/* Chooses, and always says what and why. */
static const struct kvm_if *choose(enum accel accel)
{
	struct accel_check check;

	if (accel == ACCEL_KVM) {
		log_info("using " KVM_DEVICE_PATH ", as asked for");
		return &sys_kvm_if;
	}
	if (accel == ACCEL_SOFT) {
		log_info("using KVM in user space, as asked for");
		return &anykvm_kvm_if;
	}
	accel_check_kvm(&check);
	if (check.usable)
		log_info("using " KVM_DEVICE_PATH ": %s", check.why);
	else
		log_info("using KVM in user space, not " KVM_DEVICE_PATH ": %s", check.why);
	return check.usable ? &sys_kvm_if : &anykvm_kvm_if;
}

static void start_perf_map(const struct kvm_if *kvm)
{
	if (kvm != &anykvm_kvm_if) {
		log_warn("--perf-map does nothing on " KVM_DEVICE_PATH);
		return;
	}
	int r = anykvm_perf_map();
	if (r)
		log_warn("no names for perf: /tmp/perf-%d.map: %s", getpid(), strerror(-r));
	else
		log_info("guest code is named in /tmp/perf-%d.map", getpid());
}

/* Tells how the run ended, where that is not plain. */
static int finish(const struct machine_result *result)
{
	/* A message of several lines is a report; log_msg() is for one. */
	if (result->message[0])
		fprintf(stderr, "anykvm: error: %s\n", result->message);
	if (result->stuck)
		log_error("a CPU did not stop; leaving it behind");
	switch (result->why) {
	case STOP_POWEROFF:
	case STOP_RESET:
	case STOP_QUIT: return result->stuck ? STATUS_ERROR : STATUS_OK;
	case STOP_EXIT: return result->status;
	case STOP_SIGNAL:
		log_info("ended by signal %d (%s)", result->status, strsignal(result->status));
		return 128 + result->status;
	case STOP_GUEST_ERROR: return STATUS_GUEST_ERROR;
	default: return STATUS_ERROR;
	}
}

static char *command_line(const char *append)
{
	char *line;

	if (asprintf(&line, "%s%s%s", DEFAULT_CMDLINE, append && *append ? " " : "", append ? append : "") < 0)
		return NULL;
	return line;
}

int cli_run(int argc, char **argv)
{
	struct options o = {.machine = {.nr_cpus = 1, .memory = DEFAULT_MEMORY}};
	static struct machine_result result; /* a few KiB */
	int rc = parse(&o, argc, argv);

	if (rc < 0) {
		fputs(help, stdout);
		return STATUS_OK;
	}
	if (rc)
		return rc;

	char *line = command_line(o.append);

	if (!line) {
		log_error("out of memory");
		return STATUS_ERROR;
	}
	machine_prepare();
	o.machine.cmdline = line;
	o.machine.kvm = choose(o.accel);
	if (o.perf_map)
		start_perf_map(o.machine.kvm);
	do {
		rc = machine_run(&o.machine, &result);
	} while (rc == 0 && o.reboot && result.why == STOP_RESET && !result.stuck);
	free(line);
	return finish(&result);
}
