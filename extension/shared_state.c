/*
 * shared_state.c
 *		What sessions, launcher and dispatchers share in memory.
 *
 * One slot per database that has, or wants, a dispatcher; one lock for all of
 * it, held for a few instructions.  A slot's state moves
 *
 *		FREE -> WANTED -> STARTED -> RUNNING -> ENDED, MADE_WAY -> STARTED ...
 *								  \		   \-> NOT_INSTALLED -> FREE
 *								   \-> ENDED
 *
 * by these hands: a session makes a free slot WANTED, the dispatcher makes its
 * own slot RUNNING and, at its end, one of the three, and all the rest is the
 * launcher's.  That there is one dispatcher per database follows: a
 * database has at most one slot (claimed under the lock), and only a STARTED
 * slot can become RUNNING, by the dispatcher of its last start.  Slots outlive
 * the launcher: the next one takes over the dispatchers that run.
 *
 * Without shared_preload_libraries there is none of this; all functions for
 * sessions then do nothing.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "extension/shared_state.h"

typedef struct Slot
{
	EsSlotInfo	info;
	Latch	   *latch;			/* of the dispatcher while it runs */
} Slot;

typedef struct SharedState
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL: no launcher */
	uint32		last_start;		/* counts starts of dispatchers */
	int			nslots;
	Slot		slots[FLEXIBLE_ARRAY_MEMBER];
} SharedState;

static SharedState *shared = NULL;
static int	my_slot = -1;
static EsSlotState my_end_state = ES_SLOT_ENDED;

static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

/* Each dispatcher is a background worker, so there cannot be more than these. */
static Size
shared_state_size(void)
{
	return add_size(offsetof(SharedState, slots),
					mul_size(max_worker_processes, sizeof(Slot)));
}

static void
request_shared_memory(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(shared_state_size());
	RequestNamedLWLockTranche("eventstore", 1);
}

static void
attach_shared_memory(void)
{
	bool		found;

	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("eventstore", shared_state_size(), &found);
	if (!found)
	{
		memset(shared, 0, shared_state_size());
		shared->lock = &GetNamedLWLockTranche("eventstore")->lock;
		shared->nslots = max_worker_processes;
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Called by the postmaster, while it preloads the library. */
void
es_shared_state_init(void)
{
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_shared_memory;
}

/* Is there shared memory of ours, and with it a launcher? */
bool
es_is_preloaded(void)
{
	return shared != NULL;
}

static Slot *
find_slot(Oid database)
{
	Assert(LWLockHeldByMe(shared->lock));
	for (int i = 0; i < shared->nslots; i++)
	{
		if (shared->slots[i].info.state != ES_SLOT_FREE &&
			shared->slots[i].info.database == database)
			return &shared->slots[i];
	}
	return NULL;
}

static Slot *
claim_slot(Oid database)
{
	Slot	   *slot = find_slot(database);

	Assert(LWLockHeldByMeInMode(shared->lock, LW_EXCLUSIVE));
	for (int i = 0; slot == NULL && i < shared->nslots; i++)
	{
		if (shared->slots[i].info.state == ES_SLOT_FREE)
		{
			slot = &shared->slots[i];
			memset(slot, 0, sizeof(Slot));
			slot->info.database = database;
			slot->info.state = ES_SLOT_WANTED;
		}
	}
	return slot;
}

/*
 * Wake the dispatcher of this database, or ask for one.  Called at commit, so
 * it must not fail: where no slot is free, the launcher's own round finds the
 * database.
 */
void
es_wake_dispatcher(void)
{
	Slot	   *slot;

	if (shared == NULL)
		return;

	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(MyDatabaseId);
	if (slot != NULL && slot->latch != NULL)
	{
		SetLatch(slot->latch);
		LWLockRelease(shared->lock);
		return;
	}
	LWLockRelease(shared->lock);

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = claim_slot(MyDatabaseId);
	if (slot != NULL)
		slot->info.asked_for = true;
	if (shared->launcher_latch != NULL)
		SetLatch(shared->launcher_latch);
	LWLockRelease(shared->lock);
}

/* Does this database's dispatcher run?  If so, what does it report? */
bool
es_dispatcher_running(EsSlotInfo *info)
{
	Slot	   *slot;
	bool		running = false;

	if (shared == NULL)
		return false;

	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(MyDatabaseId);
	if (slot != NULL && slot->info.state == ES_SLOT_RUNNING)
	{
		running = true;
		*info = slot->info;
	}
	LWLockRelease(shared->lock);
	return running;
}

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher_latch = NULL;
	LWLockRelease(shared->lock);
}

/* Make the current process the launcher; false if there is one. */
bool
es_launcher_attach(void)
{
	bool		attached = false;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->launcher_latch == NULL)
	{
		shared->launcher_latch = MyLatch;
		attached = true;
	}
	LWLockRelease(shared->lock);

	if (attached)
		before_shmem_exit(detach_launcher, (Datum) 0);
	return attached;
}

int
es_slot_count(void)
{
	return shared->nslots;
}

EsSlotInfo
es_slot_get(int slot)
{
	EsSlotInfo	info;

	LWLockAcquire(shared->lock, LW_SHARED);
	info = shared->slots[slot].info;
	LWLockRelease(shared->lock);
	return info;
}

/*
 * Like es_slot_get(), for a new launcher: it has no means to tell what became
 * of a dispatcher that an earlier one asked for and that has not attached, so
 * that one is no longer meant to.
 */
EsSlotInfo
es_slot_adopt(int slot)
{
	EsSlotInfo	info;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->slots[slot].info.state == ES_SLOT_STARTED)
		shared->slots[slot].info.state = ES_SLOT_ENDED;
	info = shared->slots[slot].info;
	LWLockRelease(shared->lock);
	return info;
}

/*
 * Make the database's slot, new or not, STARTED, for the dispatcher that gets
 * to know `start` and for no other.  Returns the slot; -1 if none is free.
 */
int
es_slot_start(Oid database, uint32 *start)
{
	Slot	   *slot;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = claim_slot(database);
	if (slot != NULL)
	{
		Assert(slot->latch == NULL);
		slot->info.state = ES_SLOT_STARTED;
		slot->info.start = *start = ++shared->last_start;
	}
	LWLockRelease(shared->lock);
	return slot != NULL ? slot - shared->slots : -1;
}

void
es_slot_set_state(int slot, EsSlotState state)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	Assert(shared->slots[slot].latch == NULL);
	shared->slots[slot].info.state = state;
	LWLockRelease(shared->lock);
}

/*
 * Free the slot of a database without the extension, unless a session has
 * asked for a dispatcher meanwhile.  Returns whether the slot is free.
 */
bool
es_slot_free_unless_asked_for(int slot)
{
	EsSlotInfo *info = &shared->slots[slot].info;
	bool		is_free;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (info->state == ES_SLOT_NOT_INSTALLED && !info->asked_for)
		info->state = ES_SLOT_FREE;
	is_free = (info->state == ES_SLOT_FREE);
	LWLockRelease(shared->lock);
	return is_free;
}

static void
detach_dispatcher(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->slots[my_slot].latch = NULL;

	/* Somebody who installed the extension after we looked has set the latch. */
	if (my_end_state == ES_SLOT_NOT_INSTALLED && MyLatch->is_set)
		my_end_state = ES_SLOT_ENDED;
	shared->slots[my_slot].info.state = my_end_state;
	if (shared->launcher_latch != NULL)
		SetLatch(shared->launcher_latch);
	LWLockRelease(shared->lock);
}

/*
 * Make the current process the dispatcher that the launcher started for a
 * slot.  False if the slot is no longer meant for it.
 */
bool
es_dispatcher_attach(int slot, Oid database, uint32 start)
{
	bool		attached = false;

	if (shared == NULL || slot < 0 || slot >= shared->nslots)
		return false;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->slots[slot].info.state == ES_SLOT_STARTED &&
		shared->slots[slot].info.database == database &&
		shared->slots[slot].info.start == start)
	{
		my_slot = slot;
		shared->slots[slot].info.state = ES_SLOT_RUNNING;
		shared->slots[slot].info.asked_for = false;
		shared->slots[slot].info.last_error[0] = '\0';
		shared->slots[slot].latch = MyLatch;
		if (shared->launcher_latch != NULL)
			SetLatch(shared->launcher_latch);
		attached = true;
	}
	LWLockRelease(shared->lock);

	if (attached)
		before_shmem_exit(detach_dispatcher, (Datum) 0);
	return attached;
}

/* What the slot becomes when this dispatcher ends; ENDED unless told. */
void
es_dispatcher_set_end_state(EsSlotState state)
{
	my_end_state = state;
}

/* Show why notifications are stalled; NULL: they are not. */
void
es_dispatcher_report_error(const char *error)
{
	EsSlotInfo *info = &shared->slots[my_slot].info;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	strlcpy(info->last_error, error != NULL ? error : "", ES_ERROR_LENGTH);
	if (error != NULL)
		info->last_error_at = GetCurrentTimestamp();
	LWLockRelease(shared->lock);
}
