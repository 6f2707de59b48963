/*
 * feed.h
 *		Reads events in feed order.
 */
#ifndef ES_FEED_H
#define ES_FEED_H

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/snapshot.h"

/* SQLSTATEs of our own, for what a reading program branches on. */
#define ES_ERRCODE_ANOTHER_HISTORY MAKE_SQLSTATE('E', 'S', '0', '0', '1')
#define ES_ERRCODE_NO_LONGER_RETAINED MAKE_SQLSTATE('E', 'S', '0', '0', '2')

/* A walk along the feed. */
typedef struct EsFeed
{
	int64		position;		/* of the current event */
	TupleTableSlot *slot;		/* its row in eventstore.event */
	struct EsFeedScan *scan;	/* private */
} EsFeed;

extern void es_feed_begin(EsFeed *feed, Snapshot snapshot, int64 after, int64 upto);
extern bool es_feed_next(EsFeed *feed);
extern void es_feed_end(EsFeed *feed);

/* A run of positions that was sealed at once. */
typedef struct EsSegment
{
	int64		first_position;
	int64		last_position;
	int64		first_id;
	TimestampTz sealed_at;
} EsSegment;

extern bool es_feed_segment_upto(Snapshot snapshot, int64 position, EsSegment *segment);
extern int64 es_feed_head(Snapshot snapshot);
extern void es_feed_check_position(Snapshot snapshot, int64 after);
extern void es_feed_check_upto(Snapshot snapshot, int64 upto);

#endif							/* ES_FEED_H */
