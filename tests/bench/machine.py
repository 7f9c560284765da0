"""What the benchmarks talk to: a program behind two pipes, be it a guest with its console or the host's own."""
import os
import re
import select
import subprocess
import time

MEMORY_MIB = 512


class Failure(Exception):
	"""The machine, or what runs in it, did not do what was asked."""


class Machine:
	"""A running program. Its lines come with the time at which they arrived."""

	running = set()

	def __init__(self, command, log):
		self.log = open(log, "wb")
		self.started = time.monotonic()
		self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
						stderr=self.log, bufsize=0)
		self.pending = b""
		self.arrived = self.started
		self.running.add(self)

	def send(self, line):
		try:
			self.process.stdin.write(line.encode() + b"\n")
		except OSError:
			raise Failure("died")

	def expect(self, pattern, timeout):
		"""Waits for a line in which @pattern occurs. Returns the match and when the line arrived."""
		deadline = time.monotonic() + timeout
		while True:
			while b"\n" not in self.pending:
				left = deadline - time.monotonic()
				if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
					raise Failure("timeout")
				data = os.read(self.process.stdout.fileno(), 65536)
				self.arrived = time.monotonic()
				if not data:
					raise Failure("died")
				self.log.write(data)
				self.log.flush()
				self.pending += data
			line, self.pending = self.pending.split(b"\n", 1)
			text = line.decode(errors="replace")
			if "bench: failed" in text or "Kernel panic" in text:
				raise Failure(text[max(text.find("bench: "), 0):].strip())
			match = re.search(pattern, text)
			if match:
				return match, self.arrived

	def run(self, test, count, timeout):
		"""@count units of a test. Returns the seconds and the sum."""
		self.send(f"run {test} {count}")
		_, begin = self.expect(f"bench: begin {test}", timeout)
		match, end = self.expect(rf"bench: end {test} (\w+)", timeout)
		self.expect(f"bench: done {test}", timeout)
		return end - begin, match[1]

	def tests(self):
		"""What the program offers: rows of name, group and operations in a unit."""
		self.send("list")
		rows = []
		while True:
			match, _ = self.expect(r"bench: (test (\w+) (\w+) (\d+)|ready)", 10)
			if match[1] == "ready":
				return rows
			rows.append((match[2], match[3], int(match[4])))

	def resident_kib_beyond_ram(self):
		"""Of all but the guest's RAM, which is the one mapping of its size. Pages mapped twice count once."""
		size = total = 0
		for line in open(f"/proc/{self.process.pid}/smaps"):
			if line.startswith("Size:"):
				size = int(line.split()[1])
			elif line.startswith("Pss:") and size != MEMORY_MIB * 1024:
				total += int(line.split()[1])
		return total

	def cpu_seconds(self):
		fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(") ", 1)[1].split()
		return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

	@classmethod
	def stop_all(cls):
		for machine in list(cls.running):
			machine.stop()

	def stop(self):
		self.running.remove(self)
		self.process.kill()
		self.process.wait()
		for f in (self.process.stdin, self.process.stdout, self.log):
			f.close()


def command(engine, build, kernel, initrd=None, cpus=1):
	"""How @engine starts @kernel."""
	if engine in ("interp", "jit"):
		return [f"{build}/anykvm", "run", "--accel", "soft", "--engine", engine, "-m", f"{MEMORY_MIB}M",
			"-c", str(cpus), "-k", kernel, "-a", "quiet loglevel=1"] + (["-i", initrd] if initrd else [])
	cpu = {"tcg": "qemu64", "tcg-max": "max"}[engine]
	return ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", cpu, "-m", str(MEMORY_MIB),
		"-smp", str(cpus), "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", kernel] + (
		["-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet loglevel=1"] if initrd else [])
