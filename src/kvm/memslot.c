/*
 * Memory slots (api.rst, KVM_SET_USER_MEMORY_REGION). The map that the CPUs use is the state: each change copies it
 * with the edit made, publishes the copy and frees the old one when no vCPU runs on it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"
#include "kvm/uaccess.h"

#define SLOT_MAX_PAGES ((1ull << 31) - 1) /* KVM_MEM_MAX_NR_PAGES */
#define GPA_LIMIT (1ull << 52)
#define USER_TOP (1ull << 47) /* of the host's user addresses, less what 5-level paging would add */

static struct gpa_map *vm_map(struct vm *vm)
{
	return atomic_load_explicit(&vm->map, memory_order_relaxed);
}

const struct gpa_slot *vm_slot_by_id(struct vm *vm, u32 id)
{
	struct gpa_map *m = vm_map(vm);

	for (u32 i = 0; m && i < m->nr; i++)
		if (m->slot[i].id == id)
			return &m->slot[i];
	return NULL;
}

void vm_publish_map(struct vm *vm, struct gpa_map *map)
{
	struct gpa_map *old = atomic_exchange(&vm->map, map);

	vm_quiesce(vm);
	free(old);
}

static u64 next_unique(void)
{
	static _Atomic u64 last;

	return atomic_fetch_add(&last, 1) + 1;
}

/* A copy of the map without slot @drop (may be NULL) and with @add (may be NULL). NULL: out of memory. */
static struct gpa_map *edit_map(struct vm *vm, const struct gpa_slot *drop, const struct gpa_slot *add)
{
	struct gpa_map *old = vm_map(vm);
	u32 nr = old ? old->nr : 0;
	struct gpa_map *m = malloc(sizeof(*m) + (nr + 1) * sizeof(m->slot[0]));

	if (!m)
		return NULL;
	m->gen = next_unique();
	m->nr = 0;
	for (u32 i = 0; i < nr; i++) {
		const struct gpa_slot *s = &old->slot[i];

		if (s == drop)
			continue;
		if (add && add->gpa < s->gpa) {
			m->slot[m->nr++] = *add;
			add = NULL;
		}
		m->slot[m->nr++] = *s;
	}
	if (add)
		m->slot[m->nr++] = *add;
	return m;
}

static bool overlaps(struct vm *vm, const struct gpa_slot *except, u64 gpa, u64 size)
{
	struct gpa_map *m = vm_map(vm);

	for (u32 i = 0; m && i < m->nr; i++) {
		const struct gpa_slot *s = &m->slot[i];

		if (s != except && gpa < s->gpa + s->size && s->gpa < gpa + size)
			return true;
	}
	return false;
}

static int delete_slot(struct vm *vm, const struct gpa_slot *old)
{
	if (!old)
		return -EINVAL;
	_Atomic u64 *dirty = old->dirty;
	_Atomic u16 *code = old->code;
	struct gpa_map *m = edit_map(vm, old, NULL);
	if (!m)
		return -ENOMEM;
	vm_publish_map(vm, m);
	free((void *)dirty);
	free((void *)code);
	return 0;
}

static int set_slot(struct vm *vm, const struct gpa_slot *old, const struct kvm_userspace_memory_region2 *r)
{
	struct gpa_slot slot = {
		.gpa = r->guest_phys_addr,
		.size = r->memory_size,
		.hva = (u8 *)r->userspace_addr,
		.id = r->slot,
		.flags = (r->flags & KVM_MEM_READONLY ? GPA_READONLY : 0) |
			 (r->flags & KVM_MEM_LOG_DIRTY_PAGES ? GPA_LOG_DIRTY : 0),
	};
	_Atomic u64 *unused = NULL;

	slot.code = old ? old->code : calloc(slot.size >> PAGE_SHIFT, sizeof(*slot.code));
	slot.code_id = old ? old->code_id : next_unique();
	if (old) {
		if (slot.hva != old->hva || slot.size != old->size || ((slot.flags ^ old->flags) & GPA_READONLY))
			return -EINVAL;
		if (slot.gpa == old->gpa && slot.flags == old->flags)
			return 0;
	}
	if ((!old || slot.gpa != old->gpa) && overlaps(vm, old, slot.gpa, slot.size)) {
		if (!old)
			free((void *)slot.code);
		return -EEXIST;
	}
	if (slot.flags & GPA_LOG_DIRTY)
		slot.dirty = old && old->dirty ? old->dirty :
			     dirty_log_create(slot.size >> PAGE_SHIFT, vm->manual_dirty & KVM_DIRTY_LOG_INITIALLY_SET);
	else if (old)
		unused = old->dirty;
	struct gpa_map *m = (slot.flags & GPA_LOG_DIRTY) && !slot.dirty ? NULL : edit_map(vm, old, &slot);
	if (!m) {
		if (!old || slot.dirty != old->dirty)
			free((void *)slot.dirty);
		if (!old)
			free((void *)slot.code);
		return -ENOMEM;
	}
	vm_publish_map(vm, m);
	free((void *)unused);
	return 0;
}

int vm_set_memory_region(struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	/* One address space: there is no system management mode. */
	if ((r->slot >> 16) || r->slot >= VM_USER_MEM_SLOTS)
		return -EINVAL;
	if (r->flags & ~(u32)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if ((r->memory_size | r->guest_phys_addr | r->userspace_addr) & ~PAGE_MASK)
		return -EINVAL;
	if (r->userspace_addr > USER_TOP || r->memory_size > USER_TOP - r->userspace_addr)
		return -EINVAL;
	if (r->memory_size >> PAGE_SHIFT > SLOT_MAX_PAGES || r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	if (r->memory_size && r->guest_phys_addr + r->memory_size > GPA_LIMIT)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	const struct gpa_slot *old = vm_slot_by_id(vm, r->slot);
	int ret = r->memory_size ? set_slot(vm, old, r) : delete_slot(vm, old);
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

void vm_free_slots(struct vm *vm)
{
	struct gpa_map *m = vm_map(vm);

	for (u32 i = 0; m && i < m->nr; i++) {
		free((void *)m->slot[i].dirty);
		free((void *)m->slot[i].code);
	}
	free(m);
}

/* The largest part of [gpa, gpa + n) that one slot holds. */
static const struct gpa_slot *part(const struct gpa_map *map, u64 gpa, size_t n, size_t *len)
{
	const struct gpa_slot *s = gpa_find(map, gpa);

	if (s)
		*len = MIN(n, s->size - (gpa - s->gpa));
	return s;
}

int guest_read(const struct gpa_map *map, u64 gpa, void *to, size_t n)
{
	size_t len;

	for (; n; gpa += len, to = (u8 *)to + len, n -= len) {
		const struct gpa_slot *s = part(map, gpa, n, &len);
		if (!s || uaccess_read(to, s->hva + (gpa - s->gpa), len))
			return -EFAULT;
	}
	return 0;
}

int guest_write(const struct gpa_map *map, u64 gpa, const void *from, size_t n)
{
	size_t len;

	for (; n; gpa += len, from = (const u8 *)from + len, n -= len) {
		const struct gpa_slot *s = part(map, gpa, n, &len);
		if (!s || (s->flags & GPA_READONLY) || uaccess_write(s->hva + (gpa - s->gpa), from, len))
			return -EFAULT;
		for (u64 page = gpa & PAGE_MASK; page < gpa + len; page += PAGE_SIZE)
			gpa_mark_dirty(s, page);
	}
	return 0;
}
