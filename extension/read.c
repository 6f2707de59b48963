/*
 * read.c
 *		SQL functions that read the feed: read(), tail(), head(), position_at().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/event_type.h"
#include "extension/feed.h"
#include "extension/shared_state.h"
#include "extension/unsealed.h"

PG_FUNCTION_INFO_V1(es_head);
PG_FUNCTION_INFO_V1(es_position_at);
PG_FUNCTION_INFO_V1(es_read);
PG_FUNCTION_INFO_V1(es_tail);

/* Columns of eventstore.recorded_event, and where in the row they come from. */
#define Natts_recorded_event 7

static const AttrNumber recorded_columns[Natts_recorded_event] = {
	InvalidAttrNumber,			/* position */
	Anum_event_id,
	Anum_event_type,
	Anum_event_key,
	Anum_event_payload,
	Anum_event_headers,
	Anum_event_emitted_at
};

/* A bigint or integer argument that must be neither NULL nor negative. */
static int64
count_argument(FunctionCallInfo fcinfo, int n, bool is_int8, const char *name)
{
	int64		value;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
	value = is_int8 ? PG_GETARG_INT64(n) : PG_GETARG_INT32(n);
	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be negative, but is " INT64_FORMAT, name, value)));
	return value;
}

static EsTypeFilter *
types_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"types\" must not be null"),
				 errhint("All types are '{*}'.")));
	return es_type_filter_make(PG_GETARG_ARRAYTYPE_P(n));
}

static bool
wanted(const EsTypeFilter *filter, TupleTableSlot *slot)
{
	bool		isnull;
	text	   *type = DatumGetTextPP(slot_getattr(slot, Anum_event_type, &isnull));

	return es_type_filter_matches(filter, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

/* Fill in a row of recorded_event from the feed's current event. */
static void
recorded_event(const EsFeed *feed, Datum *values, bool *isnull)
{
	values[0] = Int64GetDatum(feed->position);
	isnull[0] = false;
	for (int i = 1; i < Natts_recorded_event; i++)
		values[i] = slot_getattr(feed->slot, recorded_columns[i], &isnull[i]);
}

/* head(): position of the last event in the feed; 0 when there is none. */
Datum
es_head(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(es_feed_head(GetActiveSnapshot()));
}

/*
 * position_at(at timestamptz)
 *
 * Position of the last event sealed at or before a time; 0 when there is none.
 * Segments are in the order of time as they are in that of positions, so it is
 * a binary search over positions.  (Where the clock was set back, which of the
 * equally good answers comes out is left open.)
 */
Datum
es_position_at(PG_FUNCTION_ARGS)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);
	Snapshot	snapshot = GetActiveSnapshot();
	int64		low = 0;		/* everything up to here was sealed by then */
	int64		high = es_feed_head(snapshot);	/* nothing beyond this was */
	EsSegment	segment;

	while (low < high)
	{
		int64		middle = low + (high - low + 1) / 2;

		CHECK_FOR_INTERRUPTS();
		if (!es_feed_segment_upto(snapshot, middle, &segment))
			low = middle;		/* before the oldest segment retained */
		else if (segment.sealed_at <= at)
			low = Max(middle, segment.last_position);	/* beyond it: between epochs */
		else
			high = segment.first_position - 1;
	}

	/* Between epochs no position exists: step back to one that does. */
	if (!es_feed_segment_upto(snapshot, low, &segment))
		PG_RETURN_INT64(0);
	PG_RETURN_INT64(Min(low, segment.last_position));
}

/*
 * The page ends where the feed ends.  If there are committed events behind it
 * and nobody will seal them, say so: silence is what loses a newcomer.
 */
static void
notice_unsealed(Snapshot snapshot)
{
	EsSlotInfo	info;

	if (RecoveryInProgress() || es_dispatcher_running(&info) || !es_unsealed_exist(snapshot))
		return;
	ereport(NOTICE,
			(errmsg("there are committed events that no reader can see yet, as no dispatcher runs in this database"),
			 errhint("Add eventstore to shared_preload_libraries and restart the server, "
					 "or run SELECT eventstore.seal() by hand.")));
}

/*
 * read(after bigint, max_events int, types text[], upto bigint)
 *
 * The next events after a position, in feed order.  A page with fewer than
 * max_events reached the end, or upto.
 */
Datum
es_read(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		after = count_argument(fcinfo, 0, true, "after");
	int64		max_events = count_argument(fcinfo, 1, false, "max_events");
	EsTypeFilter *filter = types_argument(fcinfo, 2);
	int64		upto = PG_ARGISNULL(3) ? PG_INT64_MAX : count_argument(fcinfo, 3, true, "upto");
	Snapshot	snapshot = GetActiveSnapshot();
	int64		found = 0;
	EsFeed		feed;

	InitMaterializedSRF(fcinfo, 0);
	es_feed_check_position(snapshot, after);
	if (upto != PG_INT64_MAX)
		es_feed_check_upto(snapshot, upto);

	es_feed_begin(&feed, snapshot, after, upto);
	while (found < max_events && es_feed_next(&feed))
	{
		Datum		values[Natts_recorded_event];
		bool		isnull[Natts_recorded_event];

		if (!wanted(filter, feed.slot))
			continue;
		recorded_event(&feed, values, isnull);
		tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
		found++;
	}
	es_feed_end(&feed);

	if (found < max_events && upto == PG_INT64_MAX)
		notice_unsealed(snapshot);
	PG_RETURN_NULL();
}

/*
 * tail(max_events int, types text[])
 *
 * The last events, in feed order: segment by segment backwards until there are
 * enough.
 */
Datum
es_tail(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		max_events = count_argument(fcinfo, 0, false, "max_events");
	EsTypeFilter *filter = types_argument(fcinfo, 1);
	Snapshot	snapshot = GetActiveSnapshot();
	List	   *found = NIL;	/* of HeapTuple, the last event first */
	EsSegment	segment = {.first_position = PG_INT64_MAX};

	InitMaterializedSRF(fcinfo, 0);
	notice_unsealed(snapshot);

	while (list_length(found) < max_events &&
		   es_feed_segment_upto(snapshot, segment.first_position - 1, &segment))
	{
		EsFeed		feed;
		List	   *here = NIL; /* the segment's events, the first one first */

		es_feed_begin(&feed, snapshot, segment.first_position - 1, segment.last_position);
		while (es_feed_next(&feed))
		{
			Datum		values[Natts_recorded_event];
			bool		isnull[Natts_recorded_event];

			if (!wanted(filter, feed.slot))
				continue;
			recorded_event(&feed, values, isnull);
			here = lappend(here, heap_form_tuple(result->setDesc, values, isnull));
			if (list_length(here) > max_events)
			{
				heap_freetuple(linitial(here));
				here = list_delete_first(here);
			}
		}
		es_feed_end(&feed);

		for (int i = list_length(here) - 1; i >= 0 && list_length(found) < max_events; i--)
			found = lappend(found, list_nth(here, i));
		list_free(here);
	}

	for (int i = list_length(found) - 1; i >= 0; i--)
		tuplestore_puttuple(result->setResult, list_nth(found, i));
	PG_RETURN_NULL();
}
