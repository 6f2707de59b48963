/*
 * feed.c
 *		Reads events in feed order.
 *
 * A segment maps a run of positions to a run of ids, so the n-th event of the
 * feed is found by two index descents, and a page is read at the speed of the
 * rows in it, wherever in the feed it begins.
 *
 * Rows are fetched from the leaf that holds their id, and each id of a segment
 * must be there: a segment is only written for events whose transactions have
 * committed, so one that is missing was taken away since (TRUNCATE is not
 * MVCC-safe).  That is an error, never a silent skip.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/epoch.h"
#include "extension/feed.h"
#include "extension/partition.h"

struct EsFeedScan
{
	Snapshot	snapshot;
	int64		after;			/* last position that is not wanted */
	int64		upto;			/* last position that is */

	Relation	segments;
	Relation	segments_index;
	SysScanDesc segment_scan;
	EsSegment	segment;		/* the current one */
	int64		next_id;		/* next id to fetch from it ... */
	int64		end_id;			/* ... up to, not including, this */

	EsPartition partition;		/* the current leaf, if `leaf` is not NULL */
	Relation	leaf;
	Relation	leaf_index;
	IndexScanDesc leaf_scan;
	int64		scan_end;		/* leaf_scan is set up for ids below this */
	TupleTableSlot *slot;
};

static EsSegment
segment_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	Datum		values[Natts_segment];
	bool		isnull[Natts_segment];
	EsSegment	segment;

	heap_deform_tuple(tuple, desc, values, isnull);
	segment.first_position = DatumGetInt64(values[Anum_segment_first_position - 1]);
	segment.last_position = segment.first_position +
		DatumGetInt32(values[Anum_segment_event_count - 1]) - 1;
	segment.first_id = DatumGetInt64(values[Anum_segment_first_id - 1]);
	segment.sealed_at = DatumGetTimestampTz(values[Anum_segment_sealed_at - 1]);
	return segment;
}

/* An error if the snapshot sees no segment at all because of a rewrite. */
static void
check_not_rewritten(Relation rel, Relation index, Snapshot snapshot)
{
	SysScanDesc scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);

	if (systable_getnext_ordered(scan, ForwardScanDirection) == NULL)
		es_check_not_rewritten(rel, snapshot);
	systable_endscan_ordered(scan);
}

/* Fetch one segment: the first, or the last, for which key holds. */
static bool
fetch_segment(Relation rel, Relation index, Snapshot snapshot, ScanDirection direction,
			  StrategyNumber strategy, RegProcedure comparison, int64 position,
			  EsSegment *segment)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, Anum_segment_first_position, strategy, comparison, Int64GetDatum(position));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, direction);
	found = HeapTupleIsValid(tuple);
	if (found)
		*segment = segment_from_tuple(tuple, RelationGetDescr(rel));
	systable_endscan_ordered(scan);
	if (!found)
		check_not_rewritten(rel, index, snapshot);
	return found;
}

static bool
last_segment_upto(Relation rel, Relation index, Snapshot snapshot, int64 position, EsSegment *segment)
{
	return fetch_segment(rel, index, snapshot, BackwardScanDirection,
						 BTLessEqualStrategyNumber, F_INT8LE, position, segment);
}

/* The last segment that begins at or before a position; false: there is none. */
bool
es_feed_segment_upto(Snapshot snapshot, int64 position, EsSegment *segment)
{
	Relation	rel = es_table_open(ES_SEGMENT, AccessShareLock);
	Relation	index = es_index_open(rel, Anum_segment_first_position, AccessShareLock);
	bool		found = last_segment_upto(rel, index, snapshot, position, segment);

	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return found;
}

/* Position of the last event in the feed; 0 when there is none. */
int64
es_feed_head(Snapshot snapshot)
{
	EsSegment	last;

	return es_feed_segment_upto(snapshot, PG_INT64_MAX, &last) ? last.last_position : 0;
}

/*
 * Begin a walk over the events with after < position <= upto, seen by a
 * registered or active snapshot.  Everything it needs lives in the current
 * memory context.  es_feed_end() ends it; so does the end of the transaction.
 */
void
es_feed_begin(EsFeed *feed, Snapshot snapshot, int64 after, int64 upto)
{
	struct EsFeedScan *scan = palloc0(sizeof(struct EsFeedScan));
	EsSegment	first;
	ScanKeyData key;

	scan->snapshot = snapshot;
	scan->after = after;
	scan->upto = upto;
	scan->segments = es_table_open(ES_SEGMENT, AccessShareLock);
	scan->segments_index = es_index_open(scan->segments, Anum_segment_first_position, AccessShareLock);

	/* Begin with the segment that the first wanted position may lie within. */
	if (!last_segment_upto(scan->segments, scan->segments_index, snapshot, after, &first))
		first.first_position = 0;
	ScanKeyInit(&key, Anum_segment_first_position, BTGreaterEqualStrategyNumber,
				F_INT8GE, Int64GetDatum(first.first_position));
	scan->segment_scan = systable_beginscan_ordered(scan->segments, scan->segments_index,
													snapshot, 1, &key);

	feed->position = after;
	feed->slot = NULL;
	feed->scan = scan;
}

static void
close_leaf(struct EsFeedScan *scan)
{
	if (scan->leaf == NULL)
		return;
	index_endscan(scan->leaf_scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->leaf_index, NoLock);
	table_close(scan->leaf, NoLock);
	scan->leaf = NULL;
}

static void
events_missing(const struct EsFeedScan *scan)
{
	const EsSegment *segment = &scan->segment;

	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("event " INT64_FORMAT " at position " INT64_FORMAT " of the feed is missing",
					scan->next_id, segment->first_position + scan->next_id - segment->first_id),
			 errdetail("The segment at position " INT64_FORMAT " holds events " INT64_FORMAT " to " INT64_FORMAT ".",
					   segment->first_position, segment->first_id,
					   segment->first_id + segment->last_position - segment->first_position),
			 errhint("Rows of eventstore.event were deleted or truncated by hand.")));
}

/* The epoch that a position belongs to. */
typedef struct Epoch
{
	int64		base;			/* its positions are above this */
	bool		is_last;
	int64		head;			/* where its history ended, if it is not the last */
	int64		next_first;		/* where the next one begins, likewise */
} Epoch;

static Epoch
find_epoch(Snapshot snapshot, int64 position)
{
	Epoch		epoch = {.is_last = true};
	Relation	rel = es_table_open(ES_EPOCH, AccessShareLock);
	Relation	index = es_index_open(rel, Anum_epoch_first_position, AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);
	HeapTuple	tuple;
	bool		any = false;

	while (epoch.is_last &&
		   (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		int64		first = DatumGetInt64(heap_getattr(tuple, Anum_epoch_first_position,
													   RelationGetDescr(rel), &isnull));

		any = true;
		if (position >= first - 1)
			epoch.base = first - 1;
		else
		{
			epoch.is_last = false;
			epoch.next_first = first;
			epoch.head = DatumGetInt64(heap_getattr(tuple, Anum_epoch_previous_head,
													RelationGetDescr(rel), &isnull));
		}
	}
	if (!any)
		es_check_not_rewritten(rel, snapshot);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return epoch;
}

static void
not_replayed(int64 position, int64 head)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("position " INT64_FORMAT " has not been replayed on this standby yet", position),
			 errdetail("It has replayed up to " INT64_FORMAT ".", head),
			 errhint("Try again.")));
}

/*
 * Can a reader that has handled everything up to `after` go on from there?
 * Errors: ES001 if it saw events that are not part of this history, ES002 if
 * events behind `after` are no longer retained; on a standby, a retryable one
 * if they have not arrived yet.
 */
void
es_feed_check_position(Snapshot snapshot, int64 after)
{
	Relation	rel = es_table_open(ES_SEGMENT, AccessShareLock);
	Relation	index = es_index_open(rel, Anum_segment_first_position, AccessShareLock);
	Epoch		epoch = find_epoch(snapshot, after);
	int64		next;			/* position that comes next in the feed */
	EsSegment	first;
	bool		found;

	if (epoch.is_last)
		epoch.head = Max(es_feed_head(snapshot), epoch.base);

	/* A promotion may have ended since the snapshot was taken. */
	if (after > epoch.head && epoch.is_last && snapshot->takenDuringRecovery)
		not_replayed(after, epoch.head);
	if (after > epoch.head && after != epoch.base)
		ereport(ERROR,
				(errcode(ES_ERRCODE_ANOTHER_HISTORY),
				 errmsg("position " INT64_FORMAT " is of another history", after),
				 errdetail("This history ended at " INT64_FORMAT ".", epoch.head),
				 errhint("What was read beyond that was lost in a failover or restore; go on from " INT64_FORMAT ".",
						 epoch.head)));

	next = epoch.is_last || after < epoch.head ? after + 1 : epoch.next_first;
	found = fetch_segment(rel, index, snapshot, ForwardScanDirection,
						  BTGreaterEqualStrategyNumber, F_INT8GE, 0, &first);
	if (found && first.first_position > next)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NO_LONGER_RETAINED),
				 errmsg("events after position " INT64_FORMAT " are no longer retained", after),
				 errhint("The oldest event is at " INT64_FORMAT ": go on from " INT64_FORMAT ".",
						 first.first_position, first.first_position - 1)));

	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/*
 * Can a reader that got all up to `upto` be sure that this was all there is?
 * Not on a standby that has not come so far.
 */
void
es_feed_check_upto(Snapshot snapshot, int64 upto)
{
	int64		head;

	if (!snapshot->takenDuringRecovery)
		return;
	head = es_feed_head(snapshot);
	if (upto > head)
		not_replayed(upto, head);
}

/* Go to the leaf that holds the next id. */
static void
open_leaf(struct EsFeedScan *scan)
{
	close_leaf(scan);
	if (!es_partition_find(scan->next_id, &scan->partition))
		events_missing(scan);
	scan->leaf = table_open(scan->partition.relid, AccessShareLock);
	scan->leaf_index = es_index_open(scan->leaf, Anum_event_id, AccessShareLock);
	scan->leaf_scan = index_beginscan(scan->leaf, scan->leaf_index, scan->snapshot, 2, 0);
	scan->slot = table_slot_create(scan->leaf, NULL);
	scan->scan_end = 0;
}

/* Go to the next segment; false when there is none that is wanted. */
static bool
next_segment(struct EsFeedScan *scan)
{
	HeapTuple	tuple;

	while ((tuple = systable_getnext_ordered(scan->segment_scan, ForwardScanDirection)) != NULL)
	{
		EsSegment	segment = segment_from_tuple(tuple, RelationGetDescr(scan->segments));
		int64		skip = Max(scan->after + 1 - segment.first_position, 0);
		int64		take = Min(segment.last_position, scan->upto) - segment.first_position + 1;

		if (segment.first_position > scan->upto)
			return false;
		if (skip >= take)
			continue;			/* begins before `after` and ends there too */

		scan->segment = segment;
		scan->next_id = segment.first_id + skip;
		scan->end_id = segment.first_id + take;
		scan->scan_end = 0;
		return true;
	}
	return false;
}

/* Set up the leaf's index scan for [next_id, end_id), as far as the leaf goes. */
static void
begin_leaf_scan(struct EsFeedScan *scan)
{
	ScanKeyData keys[2];

	if (scan->leaf == NULL ||
		scan->next_id < scan->partition.lower || scan->next_id >= scan->partition.upper)
		open_leaf(scan);

	scan->scan_end = Min(scan->end_id, scan->partition.upper);
	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(scan->next_id));
	ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(scan->scan_end));
	index_rescan(scan->leaf_scan, keys, 2, NULL, 0);
}

/* Go to the next event; false at the end. */
bool
es_feed_next(EsFeed *feed)
{
	struct EsFeedScan *scan = feed->scan;
	bool		isnull;

	if (scan->next_id == scan->end_id && !next_segment(scan))
		return false;
	if (scan->next_id >= scan->scan_end)
		begin_leaf_scan(scan);

	CHECK_FOR_INTERRUPTS();
	if (!index_getnext_slot(scan->leaf_scan, ForwardScanDirection, scan->slot) ||
		DatumGetInt64(slot_getattr(scan->slot, Anum_event_id, &isnull)) != scan->next_id)
		events_missing(scan);

	feed->slot = scan->slot;
	feed->position = scan->segment.first_position + scan->next_id - scan->segment.first_id;
	scan->next_id++;
	return true;
}

void
es_feed_end(EsFeed *feed)
{
	struct EsFeedScan *scan = feed->scan;

	close_leaf(scan);
	systable_endscan_ordered(scan->segment_scan);
	index_close(scan->segments_index, AccessShareLock);
	table_close(scan->segments, AccessShareLock);
	pfree(scan);
}
