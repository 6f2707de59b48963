/*
 * status.c
 *		The rows of the view eventstore.subscription_status.
 *
 * Monitoring asks for it every few seconds, with many subscriptions, so it is
 * written for that: a few index look-ups for each, no executor.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/feed.h"
#include "extension/progress.h"
#include "extension/shared_state.h"

PG_FUNCTION_INFO_V1(es_subscription_status);

/* Columns of the view. */
enum
{
	Anum_status_name = 1,
	Anum_status_endpoint,
	Anum_status_types,
	Anum_status_owner,
	Anum_status_state,
	Anum_status_state_reason,
	Anum_status_position,
	Anum_status_lag_events,
	Anum_status_lag,
	Anum_status_delivered,
	Anum_status_last_success_at,
	Anum_status_last_error,
	Anum_status_last_error_at
};

#define Natts_status Anum_status_last_error_at

/* A run of positions without gaps: those of one epoch. */
typedef struct Run
{
	int64		first;
	int64		last;			/* first - 1: nothing was sealed in it */
} Run;

/* What all rows share. */
typedef struct Situation
{
	Snapshot	snapshot;
	TimestampTz now;
	int			nruns;
	Run		   *runs;			/* the feed, in order */
	const char *stall;			/* why nothing is delivered; NULL: it is */
	EsSlotInfo	dispatcher;		/* last_error is "" unless it runs and fails */
} Situation;

/* The feed's runs of positions, as the epochs divide it. */
static void
read_runs(Situation *situation)
{
	Relation	rel = table_open(es_relation_oid(ES_EPOCH), AccessShareLock);
	Relation	index = es_index_open(rel, Anum_epoch_first_position, AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, situation->snapshot, 0, NULL);
	int64		head = es_feed_head(situation->snapshot);
	int			size = 4;
	HeapTuple	tuple;

	situation->runs = palloc_array(Run, size);
	situation->nruns = 0;
	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		TupleDesc	desc = RelationGetDescr(rel);
		Run		   *run;
		bool		isnull;
		Datum		first = heap_getattr(tuple, Anum_epoch_first_position, desc, &isnull);
		Datum		ended = heap_getattr(tuple, Anum_epoch_previous_head, desc, &isnull);

		if (situation->nruns == size)
		{
			size *= 2;
			situation->runs = repalloc(situation->runs, size * sizeof(Run));
		}
		run = &situation->runs[situation->nruns++];
		run->first = DatumGetInt64(first);
		run->last = Max(head, run->first - 1);
		if (situation->nruns > 1)
			run[-1].last = DatumGetInt64(ended);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/*
 * How many positions lie behind `position`?  `next` becomes the first of them.
 */
static int64
count_behind(const Situation *situation, int64 position, int64 *next)
{
	int64		count = 0;

	*next = 0;
	for (int i = 0; i < situation->nruns; i++)
	{
		int64		first = Max(situation->runs[i].first, position + 1);

		if (first > situation->runs[i].last)
			continue;
		if (count == 0)
			*next = first;
		count += situation->runs[i].last - first + 1;
	}
	return count;
}

/* For how long has a position been in the feed?  An interval. */
static Datum
age_of_position(const Situation *situation, int64 position)
{
	EsSegment	segment;
	TimestampTz since = situation->now;

	if (position > 0 &&
		es_feed_segment_upto(situation->snapshot, position, &segment))
		since = Min(segment.sealed_at, since);
	return DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(situation->now),
							   TimestampTzGetDatum(since));
}

static void
set_column(Datum *values, bool *isnull, AttrNumber column, Datum value)
{
	values[column - 1] = value;
	isnull[column - 1] = false;
}

/* Put one row together.  Reference values point into `tuple` or are palloc'd. */
static void
fill_status(const Situation *situation, HeapTuple tuple, TupleDesc desc,
			EsProgressReader *reader, Datum *values, bool *isnull)
{
	static const AttrNumber copied[][2] = {
		{Anum_status_name, Anum_subscription_name},
		{Anum_status_endpoint, Anum_subscription_endpoint},
		{Anum_status_types, Anum_subscription_types},
		{Anum_status_owner, Anum_subscription_owner},
		{Anum_status_state, Anum_subscription_state},
		{Anum_status_state_reason, Anum_subscription_state_reason},
	};
	EsProgress	progress;
	int32		id;
	bool		active;
	const char *stall = situation->stall;
	bool		null;

	memset(isnull, true, Natts_status * sizeof(bool));
	for (int i = 0; i < lengthof(copied); i++)
	{
		int			to = copied[i][0] - 1;

		values[to] = heap_getattr(tuple, copied[i][1], desc, &isnull[to]);
	}
	active = strcmp(TextDatumGetCString(values[Anum_status_state - 1]), "active") == 0;

	id = DatumGetInt32(heap_getattr(tuple, Anum_subscription_id, desc, &null));
	if (es_progress_last(reader, id, &progress))
	{
		int64		next;
		int64		behind = count_behind(situation, progress.position, &next);

		set_column(values, isnull, Anum_status_position, Int64GetDatum(progress.position));
		set_column(values, isnull, Anum_status_lag_events, Int64GetDatum(behind));
		set_column(values, isnull, Anum_status_lag, age_of_position(situation, next));
		set_column(values, isnull, Anum_status_delivered, Int64GetDatum(progress.delivered));
		if (progress.step > 0)
			set_column(values, isnull, Anum_status_last_success_at,
					   TimestampTzGetDatum(progress.recorded_at));
	}
	else
		stall = "its progress is lost";

	if (active && stall != NULL)
	{
		set_column(values, isnull, Anum_status_state, CStringGetTextDatum("stalled"));
		set_column(values, isnull, Anum_status_state_reason, CStringGetTextDatum(stall));
	}
	if (active && situation->dispatcher.last_error[0] != '\0')
	{
		set_column(values, isnull, Anum_status_last_error,
				   CStringGetTextDatum(situation->dispatcher.last_error));
		set_column(values, isnull, Anum_status_last_error_at,
				   TimestampTzGetDatum(situation->dispatcher.last_error_at));
	}
}

static Situation
read_situation(void)
{
	Situation	situation = {0};

	situation.snapshot = GetActiveSnapshot();
	situation.now = GetCurrentTimestamp();
	read_runs(&situation);

	/* On a standby there is nothing to say: the primary delivers. */
	if (es_dispatcher_running(&situation.dispatcher))
	{
		if (situation.dispatcher.last_error[0] != '\0')
			situation.stall = "delivery fails";
	}
	else if (!RecoveryInProgress())
		situation.stall = "no dispatcher runs in this database";
	return situation;
}

/*
 * subscription_status()
 *
 * One row for each subscription.  Executable by all, so that SELECT on the view
 * is all that it takes to read the view; which is therefore asked for here.
 */
Datum
es_subscription_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			view = es_relation_oid(ES_SUBSCRIPTION_STATUS);
	Situation	situation;
	EsProgressReader reader;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	MemoryContext row_context;

	if (pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, "subscription_status");

	InitMaterializedSRF(fcinfo, 0);
	if (result->setDesc->natts != Natts_status)
		elog(ERROR, "subscription_status() has %d columns, expected %d",
			 result->setDesc->natts, Natts_status);

	situation = read_situation();
	reader = es_progress_open(situation.snapshot);
	rel = table_open(es_relation_oid(ES_SUBSCRIPTION), AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, situation.snapshot, 0, NULL);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "eventstore status row",
										ALLOCSET_DEFAULT_SIZES);

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_status];
		bool		isnull[Natts_status];
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		fill_status(&situation, tuple, RelationGetDescr(rel), &reader, values, isnull);
		tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}

	MemoryContextDelete(row_context);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	es_progress_close(&reader);
	PG_RETURN_NULL();
}
