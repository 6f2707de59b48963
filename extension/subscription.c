/*
 * subscription.c
 *		Who wants which events, and where to: eventstore.subscription.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "extension/catalog.h"
#include "extension/progress.h"
#include "extension/subscription.h"

static void
name_subscription(void *name)
{
	errcontext("subscription \"%s\"", (char *) name);
}

static EsSubscription *
subscription_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	EsSubscription *sub = palloc0(sizeof(EsSubscription));
	ErrorContextCallback callback;
	Datum		value;
	bool		isnull;

	sub->id = DatumGetInt32(heap_getattr(tuple, Anum_subscription_id, desc, &isnull));
	sub->name = TextDatumGetCString(heap_getattr(tuple, Anum_subscription_name, desc, &isnull));

	/* All this was checked by subscribe(); somebody may have edited the row. */
	callback.callback = name_subscription;
	callback.arg = sub->name;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	value = heap_getattr(tuple, Anum_subscription_endpoint, desc, &isnull);
	sub->endpoint = es_endpoint_parse(TextDatumGetCString(value));
	value = heap_getattr(tuple, Anum_subscription_types, desc, &isnull);
	sub->types = es_type_filter_make(DatumGetArrayTypeP(value));
	value = heap_getattr(tuple, Anum_subscription_filter, desc, &isnull);
	sub->filter = isnull ? NULL : DatumGetJsonPathPCopy(value);
	value = heap_getattr(tuple, Anum_subscription_state, desc, &isnull);
	sub->active = strcmp(TextDatumGetCString(value), "active") == 0;

	error_context_stack = callback.previous;
	return sub;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32		left = ((EsSubscription *) lfirst(a))->id;
	int32		right = ((EsSubscription *) lfirst(b))->id;

	return (left > right) - (left < right);
}

/*
 * All subscriptions, in the order of their ids, with their last progress, in
 * the current memory context.  For workers: no privilege is looked at.
 */
List *
es_subscription_load(Snapshot snapshot)
{
	List	   *list = NIL;
	ListCell   *lc;
	Relation	rel = table_open(es_relation_oid(ES_SUBSCRIPTION), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	EsProgressReader reader;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		list = lappend(list, subscription_from_tuple(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	reader = es_progress_open(snapshot);
	foreach(lc, list)
	{
		EsSubscription *sub = lfirst(lc);
		EsProgress	progress;

		if (es_progress_last(&reader, sub->id, &progress))
		{
			sub->step = progress.step;
			sub->position = progress.position;
			sub->previous = progress.previous;
			sub->delivered = progress.delivered;
		}
		else if (sub->active)
		{
			/* To begin anywhere would repeat events, or skip some. */
			sub->active = false;
			ereport(WARNING,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("subscription \"%s\" has lost its progress and is not served", sub->name),
					 errhint("Unsubscribe and subscribe again, with start_after.")));
		}
	}
	es_progress_close(&reader);

	list_sort(list, compare_ids);
	return list;
}
