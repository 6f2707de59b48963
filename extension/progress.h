/*
 * progress.h
 *		How far each subscription is.
 */
#ifndef ES_PROGRESS_H
#define ES_PROGRESS_H

#include "datatype/timestamp.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "extension/subscription.h"

/* A row of eventstore_internal.progress. */
typedef struct EsProgress
{
	int64		step;			/* 0: written by subscribe() */
	int64		position;
	int64		previous;
	int64		delivered;
	TimestampTz recorded_at;
} EsProgress;

/* The table and its index, open for many look-ups. */
typedef struct EsProgressReader
{
	Relation	rel;
	Relation	index;
	Snapshot	snapshot;
} EsProgressReader;

extern EsProgressReader es_progress_open(Snapshot snapshot);
extern bool es_progress_last(EsProgressReader *reader, int32 subscription, EsProgress *progress);
extern void es_progress_close(EsProgressReader *reader);
extern void es_progress_write(const EsSubscription *const *subscriptions, int count);

#endif							/* ES_PROGRESS_H */
