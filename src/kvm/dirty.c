/*
 * Dirty logs (api.rst, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG). A page's bit is set before a vCPU gets a
 * translation with which it can write to the page; clearing bits therefore ends with every vCPU dropping its
 * translations, before the client is told, so that no later write goes unseen.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"
#include "kvm/uaccess.h"

static u64 log_words(u64 pages)
{
	return (pages + 63) / 64;
}

_Atomic u64 *dirty_log_create(u64 pages, bool all_set)
{
	_Atomic u64 *log = calloc(log_words(pages), sizeof(u64));

	for (u64 i = 0; log && all_set && i < pages / 64; i++)
		log[i] = ~0ull;
	if (log && all_set && pages % 64)
		log[pages / 64] = BIT64(pages % 64) - 1;
	return log;
}

static int find_log(struct vm *vm, u32 slot, const struct gpa_slot **s)
{
	if ((slot >> 16) || slot >= VM_USER_MEM_SLOTS)
		return -EINVAL;
	*s = vm_slot_by_id(vm, slot);
	return *s && (*s)->dirty ? 0 : -ENOENT;
}

static int get_log(struct vm *vm, const struct kvm_dirty_log *log)
{
	const struct gpa_slot *s;
	int r = find_log(vm, log->slot, &s);
	if (r)
		return r;

	u64 words = log_words(s->size >> PAGE_SHIFT), any = 0;
	u64 *copy = malloc(words * sizeof(u64));
	if (!copy)
		return -ENOMEM;
	for (u64 i = 0; i < words; i++) {
		copy[i] = atomic_load_explicit(&s->dirty[i], memory_order_relaxed);
		if (copy[i] && !(vm->manual_dirty & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
			copy[i] = atomic_exchange(&s->dirty[i], 0);
		any |= copy[i];
	}
	if (any && !(vm->manual_dirty & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
		vm_quiesce(vm);
	r = uaccess_write(log->dirty_bitmap, copy, words * sizeof(u64));
	free(copy);
	return r;
}

int vm_get_dirty_log(struct vm *vm, const struct kvm_dirty_log *log)
{
	pthread_mutex_lock(&vm->slots_lock);
	int r = get_log(vm, log);
	pthread_mutex_unlock(&vm->slots_lock);
	return r;
}

static int clear_log(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	const struct gpa_slot *s;
	int r = find_log(vm, log->slot, &s);
	if (r)
		return r;

	u64 pages = s->size >> PAGE_SHIFT;
	if (log->first_page > pages || log->num_pages > pages - log->first_page ||
	    (log->num_pages < pages - log->first_page && log->num_pages % 64))
		return -EINVAL;
	u64 words = log_words(log->num_pages), first = log->first_page / 64, any = 0;
	u64 *clear = malloc(words * sizeof(u64) + 1);
	if (!clear)
		return -ENOMEM;
	r = uaccess_read(clear, log->dirty_bitmap, words * sizeof(u64));
	for (u64 i = 0; r == 0 && i < words; i++)
		any |= atomic_fetch_and(&s->dirty[first + i], ~clear[i]) & clear[i];
	if (any)
		vm_quiesce(vm);
	free(clear);
	return r;
}

int vm_clear_dirty_log(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	if (log->first_page % 64)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	int r = clear_log(vm, log);
	pthread_mutex_unlock(&vm->slots_lock);
	return r;
}
