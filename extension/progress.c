/*
 * progress.c
 *		How far each subscription is: eventstore_internal.progress.
 *
 * A worker appends a row in the transaction of the effect, and never updates
 * one: an old snapshot anywhere in the database keeps every version of an
 * updated row, and each look at the row would then walk through them all.  The
 * row with the highest step counts.  A row's step is one more than that of the
 * row before, so the primary key stops a second worker that would serve the
 * same subscription.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/progress.h"
#include "extension/table_writer.h"

EsProgressReader
es_progress_open(Snapshot snapshot)
{
	EsProgressReader reader;

	reader.rel = es_table_open(ES_PROGRESS, AccessShareLock);
	reader.index = es_index_open(reader.rel, Anum_progress_subscription, AccessShareLock);
	reader.snapshot = snapshot;
	return reader;
}

void
es_progress_close(EsProgressReader *reader)
{
	index_close(reader->index, AccessShareLock);
	table_close(reader->rel, AccessShareLock);
}

/* A bigint, or a timestamptz, which is one too. */
static int64
int64_column(EsProgressReader *reader, HeapTuple tuple, AttrNumber column)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, column, RelationGetDescr(reader->rel), &isnull));
}

/* The last progress of a subscription; false when there is none. */
bool
es_progress_last(EsProgressReader *reader, int32 subscription, EsProgress *progress)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_progress_subscription, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(subscription));
	scan = systable_beginscan_ordered(reader->rel, reader->index, reader->snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);

	if (HeapTupleIsValid(tuple))
	{
		progress->step = int64_column(reader, tuple, Anum_progress_step);
		progress->position = int64_column(reader, tuple, Anum_progress_position);
		progress->previous = int64_column(reader, tuple, Anum_progress_previous);
		progress->delivered = int64_column(reader, tuple, Anum_progress_delivered);
		progress->recorded_at = int64_column(reader, tuple, Anum_progress_recorded_at);
	}
	else
		es_check_not_rewritten(reader->rel, reader->snapshot);
	systable_endscan_ordered(scan);

	return HeapTupleIsValid(tuple);
}

/*
 * Append the progress of subscriptions as their structs have it now, in the
 * current transaction.  The caller has advanced each one's step.
 */
void
es_progress_write(const EsSubscription *const *subscriptions, int count)
{
	EsTableWriter *writer;
	TimestampTz now = GetCurrentTimestamp();

	if (count == 0)
		return;

	writer = es_table_writer_begin(es_relation_oid(ES_PROGRESS), Natts_progress);
	for (int i = 0; i < count; i++)
	{
		const EsSubscription *sub = subscriptions[i];
		Datum		values[Natts_progress];
		bool		isnull[Natts_progress] = {0};

		values[Anum_progress_subscription - 1] = Int32GetDatum(sub->id);
		values[Anum_progress_step - 1] = Int64GetDatum(sub->step);
		values[Anum_progress_position - 1] = Int64GetDatum(sub->position);
		values[Anum_progress_previous - 1] = Int64GetDatum(sub->previous);
		values[Anum_progress_delivered - 1] = Int64GetDatum(sub->delivered);
		values[Anum_progress_recorded_at - 1] = TimestampTzGetDatum(now);
		es_table_writer_put(writer, values, isnull);
	}
	es_table_writer_end(writer);
}
