/*
 * outbox.c
 *		Writes events into eventstore.event.
 *
 * Events go straight into the leaf that holds their ids: no executor, no
 * planner, no trigger, no lock but RowExclusive on the leaf, its indexes and
 * the id sequence.  Nothing checks for us on this path, so whoever calls has
 * validated every argument.
 *
 * The order of two steps carries the feed (sequencer.c): the transaction has
 * its top-level xid before an event draws its id.
 *
 * Events written by one call to one leaf are a run: consecutive ids, written by
 * one subtransaction, so that all of them are seen or none.  The first says how
 * many there are, and only the first is in the (xid) index, by which the
 * sequencer finds them.
 *
 * What is known about the current leaf outlives the transaction and is dropped
 * by the relcache callback; relations are opened and closed by each call,
 * because an open relation makes TRUNCATE, ALTER and DROP EXTENSION fail in
 * this session.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "extension/catalog.h"
#include "extension/commit_wake.h"
#include "extension/epoch.h"
#include "extension/event_id.h"
#include "extension/outbox.h"
#include "extension/own_statements.h"
#include "extension/partition.h"
#include "extension/settings.h"
#include "extension/table_writer.h"

/* The leaf this session last wrote to. */
static struct
{
	bool		valid;			/* false: look it up again */
	bool		changed;		/* heard of a change since we began to look */
	Oid			parent;
	EsPartition partition;
	MemoryContext context;		/* owns all below */
	TupleTableSlot *slot;
	int			nindexes;
	Oid		   *index_oids;
	IndexInfo **index_infos;
	bool		plain_indexes;	/* only btrees over columns, that a lone event
								 * is in: insert by hand */
	EsKeptLock	kept_lock;		/* RowExclusive, on the leaf and all its indexes */
}			leaf;

static Jsonb *empty_object;

static void
forget_leaf(Datum arg, Oid relid)
{
	/* A change of the parent may detach the leaf without touching it. */
	if (relid == InvalidOid || relid == leaf.partition.relid || relid == leaf.parent)
	{
		leaf.valid = false;
		leaf.changed = true;
	}
}

/*
 * Events have our columns and no others; those that somebody added are NULL.
 * So they must be allowed to be: nothing checks for us, and code that trusts
 * NOT NULL (compiled deforming) reads garbage.
 */
static void
check_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->natts < Natts_event)
		elog(ERROR, "partition \"%s\" has %d columns, expected %d",
			 RelationGetRelationName(rel), desc->natts, Natts_event);

	for (int i = Natts_event; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attnotnull && !attribute->attisdropped)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of table \"%s\" must not be NOT NULL",
							NameStr(attribute->attname), RelationGetRelationName(rel)),
					 errdetail("Eventstore writes its own columns only."),
					 errhint("ALTER TABLE " ES_SCHEMA ".event ALTER COLUMN %s DROP NOT NULL",
							 quote_identifier(NameStr(attribute->attname)))));
	}
}

/* Called once per process, while the library is loaded. */
void
es_outbox_init(void)
{
	CacheRegisterRelcacheCallback(forget_leaf, (Datum) 0);
	leaf.context = AllocSetContextCreate(TopMemoryContext, "eventstore leaf",
										 ALLOCSET_SMALL_SIZES);
}

/*
 * Learn the shape of a leaf that is open and locked.  False if it is not, or no
 * longer, the leaf for an id, or if something changed meanwhile.
 */
static bool
remember_leaf(Relation rel, int64 id)
{
	EsPartition partition;
	MemoryContext old;
	List	   *indexes;
	ListCell   *lc;

	leaf.valid = false;
	MemoryContextReset(leaf.context);

	/* Set before the catalogs are read: if they change under us, we must hear. */
	leaf.parent = es_relation_oid(ES_EVENT);
	leaf.partition.relid = RelationGetRelid(rel);
	leaf.changed = false;
	leaf.kept_lock.relid = InvalidOid;

	if (!es_partition_find(id, &partition) || partition.relid != leaf.partition.relid)
		return false;
	leaf.partition = partition;

	check_columns(rel);
	indexes = RelationGetIndexList(rel);
	old = MemoryContextSwitchTo(leaf.context);
	leaf.slot = MakeTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)), &TTSOpsVirtual);
	leaf.nindexes = 0;
	leaf.index_oids = palloc(sizeof(Oid) * (list_length(indexes) + 1));
	leaf.index_infos = palloc(sizeof(IndexInfo *) * (list_length(indexes) + 1));
	leaf.plain_indexes = true;
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);

		if (index->rd_rel->relam != BTREE_AM_OID ||
			info->ii_Expressions != NIL ||
			(info->ii_Predicate != NIL && !es_is_run_predicate(info->ii_Predicate)) ||
			info->ii_ExclusionOps != NULL ||
			(info->ii_Unique && !index->rd_index->indimmediate))
			leaf.plain_indexes = false;
		if (info->ii_ReadyForInserts)
		{
			leaf.index_oids[leaf.nindexes] = lfirst_oid(lc);
			leaf.index_infos[leaf.nindexes++] = info;
		}
		index_close(index, NoLock);
	}
	MemoryContextSwitchTo(old);
	list_free(indexes);

	/* Not before: an error on the way, such as a lock timeout, leaves half of it. */
	leaf.valid = !leaf.changed;
	return leaf.valid;
}

/*
 * Open the leaf for an id, RowExclusive, and make sure it is one: between
 * looking it up and locking it, it may have been detached or dropped, and a row
 * inserted then would end outside the store.
 */
static Relation
open_leaf(int64 id)
{
	for (;;)
	{
		EsPartition partition;
		Relation	rel;

		if (leaf.valid && id >= leaf.partition.lower && id < leaf.partition.upper)
			partition = leaf.partition;
		else if (!es_partition_find(id, &partition))
		{
			es_partition_create(id);
			continue;
		}

		if (leaf.valid && es_lock_is_kept(&leaf.kept_lock, partition.relid))
			return table_open(partition.relid, NoLock);

		/* Getting the lock processes invalidations: is what we know still so? */
		es_lock_for_transaction(partition.relid, RowExclusiveLock);
		rel = try_table_open(partition.relid, NoLock);
		if (rel == NULL)
		{
			leaf.valid = false;
			continue;
		}
		if (leaf.valid && partition.relid == leaf.partition.relid)
			return rel;

		if (remember_leaf(rel, id))
			return rel;
		table_close(rel, NoLock);
		CHECK_FOR_INTERRUPTS();
	}
}

/* `run` is the number of events that begin with this one; 0: it is not the first. */
static void
fill_row(Datum *values, bool *isnull, const EsNewEvent *event, int64 id, int run,
		 FullTransactionId xid, TimestampTz now, Jsonb *context)
{
	Jsonb	   *headers = event->headers;

	if (context != NULL)
	{
		if (headers == NULL)
			headers = context;
		else
			headers = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
														 JsonbPGetDatum(context),
														 JsonbPGetDatum(headers)));
	}
	else if (headers == NULL)
		headers = empty_object;

	memset(isnull, false, sizeof(bool) * Natts_event);
	values[Anum_event_id - 1] = Int64GetDatum(id);
	values[Anum_event_xid - 1] = FullTransactionIdGetDatum(xid);
	values[Anum_event_emitted_at - 1] = TimestampTzGetDatum(now);
	values[Anum_event_run - 1] = Int32GetDatum(run);
	isnull[Anum_event_run - 1] = (run == 0);
	values[Anum_event_type - 1] = PointerGetDatum(event->type);
	values[Anum_event_key - 1] = PointerGetDatum(event->key);
	isnull[Anum_event_key - 1] = (event->key == NULL);
	values[Anum_event_payload - 1] = JsonbPGetDatum(event->payload);
	values[Anum_event_headers - 1] = JsonbPGetDatum(headers);
}

/* Write one event into the open leaf, with the indexes as cached. */
static void
insert_one(Relation rel, const EsNewEvent *event, int64 id,
		   FullTransactionId xid, TimestampTz now, Jsonb *context)
{
	TupleTableSlot *slot = leaf.slot;
	bool		locked = es_lock_is_kept(&leaf.kept_lock, RelationGetRelid(rel));
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	ExecClearTuple(slot);
	fill_row(slot->tts_values, slot->tts_isnull, event, id, 1, xid, now, context);
	for (int i = Natts_event; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = true;
	ExecStoreVirtualTuple(slot);

	table_tuple_insert(rel, slot, GetCurrentCommandId(true), 0, NULL);

	for (int i = 0; i < leaf.nindexes; i++)
	{
		Relation	index = index_open(leaf.index_oids[i], locked ? NoLock : RowExclusiveLock);
		IndexInfo  *info = leaf.index_infos[i];

		FormIndexDatum(info, slot, NULL, values, isnull);
		index_insert(index, values, isnull, &slot->tts_tid, rel,
					 info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 false, info);
		index_close(index, NoLock);
	}
	ExecClearTuple(slot);
	if (!locked)
		es_note_kept_lock(&leaf.kept_lock, RelationGetRelid(rel));
}

/* Write events into the open leaf through the executor's index insertion. */
static void
insert_many(Relation rel, const EsNewEvent *events, int count, int64 first_id,
			FullTransactionId xid, TimestampTz now, Jsonb *context)
{
	EsTableWriter *writer = es_table_writer_begin_on(rel, Natts_event);
	Datum		values[Natts_event];
	bool		isnull[Natts_event];

	for (int i = 0; i < count; i++)
	{
		fill_row(values, isnull, &events[i], first_id + i, i == 0 ? count : 0, xid, now, context);
		es_table_writer_put(writer, values, isnull);
	}
	es_table_writer_end(writer);
}

/* Write events with ids that are drawn already. */
static void
insert_events(const EsNewEvent *events, int count, int64 first_id, FullTransactionId xid)
{
	TimestampTz now = GetCurrentTimestamp();
	Jsonb	   *context = es_context_headers();

	if (unlikely(empty_object == NULL))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		empty_object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
		MemoryContextSwitchTo(old);
	}

	while (count > 0)
	{
		Relation	rel = open_leaf(first_id);
		int			n = Min(count, leaf.partition.upper - first_id);

		if (n == 1 && leaf.plain_indexes)
			insert_one(rel, events, first_id, xid, now, context);
		else
			insert_many(rel, events, n, first_id, xid, now, context);
		table_close(rel, NoLock);

		events += n;
		first_id += n;
		count -= n;
	}
}

/*
 * What must be so before an id is drawn, and in this order: the transaction
 * may write, has its xid, and ids are those of the current epoch.
 */
static FullTransactionId
begin_append(void)
{
	FullTransactionId xid;

	PreventCommandIfReadOnly("eventstore.emit()");
	PreventCommandIfParallelMode("eventstore.emit()");
	es_commit_wake_mark();
	xid = GetTopFullTransactionId();
	es_epoch_before_emit();
	return xid;
}

/*
 * Append events to the outbox, in the current transaction.  Their ids are
 * consecutive; returns the first.
 */
int64
es_outbox_append(const EsNewEvent *events, int count)
{
	FullTransactionId xid = begin_append();
	int64		first_id = es_event_id_draw(count);

	insert_events(events, count, first_id, xid);
	return first_id;
}

/*
 * Append one event, unless one was appended before with the same idempotency
 * key; returns the id of the one or the other.  While the other transaction
 * is open, waits for its end.
 */
int64
es_outbox_append_once(text *idempotency_key, const EsNewEvent *event)
{
	FullTransactionId xid = begin_append();
	int64		id = es_event_id_draw(1);
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		args[2] = {PointerGetDatum(idempotency_key), Int64GetDatum(id)};
	bool		first;
	EsStatements statements;

	statements = es_statements_begin();
	SPI_execute_with_args("INSERT INTO " ES_INTERNAL_SCHEMA ".idempotency (key, id) "
						  "VALUES ($1, $2) ON CONFLICT DO NOTHING",
						  2, types, args, NULL, false, 0);
	first = (SPI_processed == 1);
	if (!first)
	{
		bool		isnull;

		SPI_execute_with_args("SELECT id FROM " ES_INTERNAL_SCHEMA ".idempotency "
							  "WHERE key OPERATOR(pg_catalog.=) $1",
							  1, types, args, NULL, false, 1);
		if (SPI_processed != 1)
			elog(ERROR, "idempotency key vanished");
		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	es_statements_end(&statements);

	if (first)
		insert_events(event, 1, id, xid);
	return id;
}

PG_FUNCTION_INFO_V1(es_forget_xid);

/*
 * BEFORE INSERT trigger, always enabled, on eventstore.event: a row that was
 * not written by emit() gets no xid.  Its xid means nothing in this cluster,
 * and the sequencer would trust it.
 */
Datum
es_forget_xid(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	int			column = Anum_event_xid;
	Datum		value = (Datum) 0;
	bool		isnull = true;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("forget_xid() must be called by a BEFORE INSERT row trigger")));

	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple,
													 RelationGetDescr(trigger->tg_relation),
													 1, &column, &value, &isnull));
}
