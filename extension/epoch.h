/*
 * epoch.h
 *		Unbroken histories of the store.
 */
#ifndef ES_EPOCH_H
#define ES_EPOCH_H

#include "access/xlogdefs.h"
#include "utils/snapshot.h"

/* Ids and positions of epoch k lie in (k * ES_EPOCH_SIZE, (k + 1) * ES_EPOCH_SIZE]. */
#define ES_EPOCH_SIZE INT64CONST(1000000000000)

/* Who wrote the store's current history; all of it must match to continue it. */
typedef struct EsEpoch
{
	int64		base;			/* ids and positions are above this */
	uint64		system_identifier;
	TimeLineID	timeline;
	Oid			database;
} EsEpoch;

typedef enum EsEpochState
{
	ES_EPOCH_NONE,				/* nothing was ever sealed */
	ES_EPOCH_CURRENT,
	ES_EPOCH_NEW_TIMELINE,		/* promoted or recovered: a tail may be lost */
	ES_EPOCH_FOREIGN			/* restored or copied: xids mean something else */
} EsEpochState;

extern void es_epoch_init(void);
extern bool es_epoch_last(Snapshot snapshot, EsEpoch *epoch);
extern EsEpochState es_epoch_compare(const EsEpoch *stored, EsEpoch *current);
extern void es_epoch_before_emit(void);
extern void es_epoch_begin(const EsEpoch *epoch, int64 previous_head, const char *reason);

#endif							/* ES_EPOCH_H */
