/*
 * shared_state.h
 *		What sessions, launcher and dispatchers share in memory.
 */
#ifndef ES_SHARED_STATE_H
#define ES_SHARED_STATE_H

#include "datatype/timestamp.h"
#include "storage/latch.h"

#define ES_ERROR_LENGTH 256

/* What became of a slot's database; only the launcher moves a slot on from here. */
typedef enum EsSlotState
{
	ES_SLOT_FREE,
	ES_SLOT_WANTED,				/* a session asks for a dispatcher */
	ES_SLOT_STARTED,			/* the launcher asked the postmaster for one */
	ES_SLOT_RUNNING,			/* it runs; `latch` is its latch */
	ES_SLOT_ENDED,				/* it has ended, and shall run again */
	ES_SLOT_MADE_WAY,			/* it has ended for a command on the database: not at once */
	ES_SLOT_NOT_INSTALLED		/* it has ended: no extension in that database */
} EsSlotState;

typedef struct EsSlotInfo
{
	EsSlotState state;
	Oid			database;
	uint32		start;			/* which start of a dispatcher the slot is meant for */
	bool		asked_for;		/* a session came while no dispatcher ran */
	char		last_error[ES_ERROR_LENGTH];	/* why notifications are stalled; "": they are not */
	TimestampTz last_error_at;
} EsSlotInfo;

extern void es_shared_state_init(void);

/* For sessions. */
extern bool es_is_preloaded(void);
extern void es_wake_dispatcher(void);
extern bool es_dispatcher_running(EsSlotInfo *info);

/* For the launcher. */
extern bool es_launcher_attach(void);
extern int	es_slot_count(void);
extern EsSlotInfo es_slot_get(int slot);
extern EsSlotInfo es_slot_adopt(int slot);
extern int	es_slot_start(Oid database, uint32 *start);
extern bool es_slot_free_unless_asked_for(int slot);
extern void es_slot_set_state(int slot, EsSlotState state);

/* For a dispatcher. */
extern bool es_dispatcher_attach(int slot, Oid database, uint32 start);
extern void es_dispatcher_set_end_state(EsSlotState state);
extern void es_dispatcher_report_error(const char *error);

#endif							/* ES_SHARED_STATE_H */
