/*
 * capture.c
 *		The trigger function that emits: capture().
 *
 * As an AFTER row trigger it emits one event for the row.  As an AFTER
 * statement trigger it reads the statement's transition tables and emits their
 * rows in batches, each with one run of ids and one multi-insert.
 *
 * What the arguments say is in the trigger's plan (capture_plan.c).  Apart from
 * arguments that are wrong, nothing here may fail over what rows contain.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "extension/capture.h"
#include "extension/capture_plan.h"
#include "extension/capture_text.h"
#include "extension/outbox.h"

PG_FUNCTION_INFO_V1(es_capture);

/* A batch ends at so many events, or when it takes that much memory. */
#define BATCH_EVENTS 1000
#define BATCH_BYTES (4 * 1024 * 1024)

/* Events of one statement, on their way to the outbox. */
typedef struct Batch
{
	EsCapturePlan *plan;
	MemoryContext context;		/* of the events and what it took to make them */
	StringInfoData buffer;		/* in which each payload is built */
	int			count;
	EsNewEvent	events[BATCH_EVENTS];
} Batch;

/* Called once per process, while the library is loaded. */
void
es_capture_init(void)
{
	es_capture_plan_init();
}

static void
misused(const TriggerData *data, const char *rule, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger \"%s\" on table \"%s\": %s",
					data->tg_trigger->tgname, RelationGetRelationName(data->tg_relation), rule),
			 errhint("%s", hint)));
}

/* The operation that fired the trigger; an error if it cannot be captured. */
static EsCaptureOp
check_event(const TriggerData *data)
{
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		misused(data, "capture() cannot capture TRUNCATE",
				"Use it for INSERT, UPDATE and DELETE.");
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		misused(data, "capture() must be fired AFTER the change",
				"Create the trigger with AFTER instead of BEFORE or INSTEAD OF.");

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		return ES_CAPTURE_INSERT;
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		return ES_CAPTURE_UPDATE;
	return ES_CAPTURE_DELETE;
}

static void
put_image(const EsCapturePlan *plan, TupleTableSlot *row, StringInfo buffer, EsJsonbObject *parent)
{
	EsJsonbObject image;

	es_jsonb_begin_object(buffer, &image, &plan->column_names);
	for (int i = 0; i < plan->ncolumns; i++)
	{
		EsColumn   *column = plan->columns[i];
		int			index = column->attnum - 1;

		es_column_put_json(column, row->tts_values[index], row->tts_isnull[index], buffer, &image);
	}
	es_jsonb_end_object(buffer, parent, &image);
}

static void
put_cstring(StringInfo buffer, EsJsonbObject *object, const char *string)
{
	es_jsonb_put_string(buffer, object, string, strlen(string));
}

/* {"op", "new", "old", "table", "schema"}; an image that is NULL is left out. */
static Jsonb *
make_envelope(const EsCapturePlan *plan, EsCaptureOp op,
			  TupleTableSlot *old, TupleTableSlot *new, StringInfo buffer)
{
	EsEnvelope	shape = ES_ENVELOPE_BOTH;
	EsJsonbObject envelope;

	if (old == NULL)
		shape = ES_ENVELOPE_NEW;
	else if (new == NULL)
		shape = ES_ENVELOPE_OLD;

	es_jsonb_begin(buffer);
	es_jsonb_begin_object(buffer, &envelope, &plan->envelopes[shape]);
	put_cstring(buffer, &envelope, es_capture_op_names[op]);
	if (new != NULL)
		put_image(plan, new, buffer, &envelope);
	if (old != NULL)
		put_image(plan, old, buffer, &envelope);
	put_cstring(buffer, &envelope, plan->table);
	put_cstring(buffer, &envelope, plan->schema);
	es_jsonb_end_object(buffer, NULL, &envelope);
	return es_jsonb_finish(buffer);
}

/* What payload= sends: the column as it is, an empty object for NULL. */
static Jsonb *
payload_column(const EsCapturePlan *plan, TupleTableSlot *row, StringInfo buffer)
{
	static const EsJsonbNames no_names = {0};
	int			index = plan->payload->attnum - 1;
	EsJsonbObject empty;

	if (!row->tts_isnull[index])
		return DatumGetJsonbP(row->tts_values[index]);

	es_jsonb_begin(buffer);
	es_jsonb_begin_object(buffer, &empty, &no_names);
	es_jsonb_end_object(buffer, NULL, &empty);
	return es_jsonb_finish(buffer);
}

/* With changed=: is any of those columns distinct? */
static bool
is_changed(const EsCapturePlan *plan, TupleTableSlot *old, TupleTableSlot *new)
{
	for (int i = 0; i < plan->nchanged; i++)
	{
		EsColumn   *column = plan->changed[i];
		int			index = column->attnum - 1;

		if (es_column_is_distinct(column, old->tts_values[index], old->tts_isnull[index],
								  new->tts_values[index], new->tts_isnull[index]))
			return true;
	}
	return plan->nchanged == 0;
}

/*
 * Make the event of a row, in the current memory context.  `old` is NULL for
 * an INSERT and where it is not needed, `new` for a DELETE.  Returns false if
 * there is nothing to emit.
 */
static bool
make_event(const EsCapturePlan *plan, EsCaptureOp op, TupleTableSlot *old, TupleTableSlot *new,
		   StringInfo buffer, EsNewEvent *event)
{
	TupleTableSlot *row = new != NULL ? new : old;

	if (new != NULL)
		slot_getsomeattrs(new, plan->last_attnum);
	if (old != NULL)
		slot_getsomeattrs(old, plan->last_attnum);

	if (op == ES_CAPTURE_UPDATE && !is_changed(plan, old, new))
		return false;

	event->type = es_capture_type(plan, op, row);
	event->key = es_capture_key(plan, op, row);
	event->headers = NULL;
	if (plan->payload != NULL)
		event->payload = payload_column(plan, row, buffer);
	else
		event->payload = make_envelope(plan, op,
									   op == ES_CAPTURE_UPDATE && !plan->old ? NULL : old,
									   new, buffer);
	return true;
}

/* Emit for the row of a row trigger. */
static void
capture_row(const TriggerData *data, EsCaptureOp op)
{
	const EsCapturePlan *plan = es_capture_plan_get(data->tg_relation, data->tg_trigger);
	TupleTableSlot *old = NULL;
	TupleTableSlot *new = NULL;
	StringInfoData buffer;
	EsNewEvent	event;

	if (op == ES_CAPTURE_INSERT)
		new = data->tg_trigslot;
	else
		old = data->tg_trigslot;
	if (op == ES_CAPTURE_UPDATE)
		new = data->tg_newslot;

	/* We are in a context that is reset after each row. */
	initStringInfo(&buffer);
	if (make_event(plan, op, old, new, &buffer, &event))
		es_outbox_append(&event, 1);
}

static void
write_batch(Batch *batch)
{
	if (batch->count == 0)
		return;
	es_outbox_append(batch->events, batch->count);
	batch->count = 0;
}

/* Add the event of a row; writes the batch when it is full. */
static void
add_to_batch(Batch *batch, EsCaptureOp op, TupleTableSlot *old, TupleTableSlot *new)
{
	MemoryContext caller = MemoryContextSwitchTo(batch->context);

	CHECK_FOR_INTERRUPTS();
	if (make_event(batch->plan, op, old, new, &batch->buffer, &batch->events[batch->count]))
		batch->count++;

	if (batch->count == BATCH_EVENTS ||
		MemoryContextMemAllocated(batch->context, false) > BATCH_BYTES)
	{
		write_batch(batch);
		MemoryContextReset(batch->context);
	}
	MemoryContextSwitchTo(caller);
}

/* A transition table, being read from its start. */
typedef struct Reader
{
	Tuplestorestate *store;
	int			pointer;
	TupleTableSlot *slot;
} Reader;

/*
 * Read through a pointer of our own: other triggers of the statement read the
 * same table.
 */
static void
begin_reading(Reader *reader, Tuplestorestate *store, TupleDesc desc)
{
	reader->store = store;
	reader->pointer = tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(store, reader->pointer);
	tuplestore_rescan(store);
	reader->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
}

/* The next row; NULL behind the last. */
static TupleTableSlot *
read_row(Reader *reader)
{
	tuplestore_select_read_pointer(reader->store, reader->pointer);
	return tuplestore_gettupleslot(reader->store, true, false, reader->slot) ? reader->slot : NULL;
}

static void
end_reading(Reader *reader)
{
	ExecDropSingleTupleTableSlot(reader->slot);
}

/* Rows of one transition table. */
static void
capture_rows(Batch *batch, EsCaptureOp op, Tuplestorestate *table, TupleDesc desc)
{
	Reader		rows;
	TupleTableSlot *row;

	begin_reading(&rows, table, desc);
	while ((row = read_row(&rows)) != NULL)
	{
		if (op == ES_CAPTURE_DELETE)
			add_to_batch(batch, op, row, NULL);
		else
			add_to_batch(batch, op, NULL, row);
	}
	end_reading(&rows);
}

/*
 * Rows of an UPDATE.  Both tables have them in the same order, with one
 * exception: a row that moves to another partition, whose BEFORE INSERT trigger
 * then discards it, is missing in the new table.  From there on it is unknown
 * which belongs to which (moving changes the primary key), so all are reported
 * as the deletions and insertions that they amount to.
 */
static void
capture_updates(Batch *batch, Tuplestorestate *old_table, Tuplestorestate *new_table,
				TupleDesc desc)
{
	Reader		old_rows;
	Reader		new_rows;
	TupleTableSlot *old;

	if (tuplestore_tuple_count(old_table) != tuplestore_tuple_count(new_table))
	{
		capture_rows(batch, ES_CAPTURE_DELETE, old_table, desc);
		capture_rows(batch, ES_CAPTURE_INSERT, new_table, desc);
		return;
	}

	begin_reading(&old_rows, old_table, desc);
	begin_reading(&new_rows, new_table, desc);
	while ((old = read_row(&old_rows)) != NULL)
		add_to_batch(batch, ES_CAPTURE_UPDATE, old, read_row(&new_rows));
	end_reading(&new_rows);
	end_reading(&old_rows);
}

/* An error unless the trigger declares the transition tables it needs. */
static void
check_transition_tables(const TriggerData *data, EsCaptureOp op, bool needs_old)
{
	bool		has_old = data->tg_oldtable != NULL;
	bool		has_new = data->tg_newtable != NULL;

	if (op == ES_CAPTURE_INSERT && !has_new)
		misused(data, "a statement trigger that captures INSERT needs the new rows",
				"Create it for INSERT alone, with REFERENCING NEW TABLE AS new_rows.");
	if (op == ES_CAPTURE_DELETE && !has_old)
		misused(data, "a statement trigger that captures DELETE needs the old rows",
				"Create it for DELETE alone, with REFERENCING OLD TABLE AS old_rows.");
	if (op == ES_CAPTURE_UPDATE && !has_new)
		misused(data, "a statement trigger that captures UPDATE needs the new rows",
				"Create it for UPDATE alone, with REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows.");
	if (op == ES_CAPTURE_UPDATE && needs_old && !has_old)
		misused(data, "a statement trigger that captures UPDATE needs the old rows",
				"Create it with REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows; "
				"without changed=, the argument old=false does without them.");
}

/* Emit for the rows of a statement trigger. */
static void
capture_statement(const TriggerData *data, EsCaptureOp op)
{
	EsCapturePlan *plan = es_capture_plan_get(data->tg_relation, data->tg_trigger);
	bool		needs_old = es_capture_plan_needs_old(plan);
	TupleDesc	desc = RelationGetDescr(data->tg_relation);
	Batch	   *batch;

	check_transition_tables(data, op, needs_old);

	batch = palloc(sizeof(Batch));
	batch->plan = plan;
	batch->count = 0;
	initStringInfo(&batch->buffer);
	batch->context = AllocSetContextCreate(CurrentMemoryContext, "eventstore capture batch",
										   ALLOCSET_DEFAULT_SIZES);

	if (op == ES_CAPTURE_DELETE)
		capture_rows(batch, op, data->tg_oldtable, desc);
	else if (op == ES_CAPTURE_UPDATE && needs_old)
		capture_updates(batch, data->tg_oldtable, data->tg_newtable, desc);
	else
		capture_rows(batch, op, data->tg_newtable, desc);
	write_batch(batch);

	MemoryContextDelete(batch->context);
}

/*
 * capture()
 *
 * Trigger function: emits an event for each row that the statement inserted,
 * updated or deleted.  Arguments: see capture_args.c.
 */
Datum
es_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	EsCaptureOp op;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("capture() can only be called as a trigger"),
				 errhint("CREATE TRIGGER ... EXECUTE FUNCTION eventstore.capture(), or SELECT eventstore.capture_table(...).")));

	op = check_event(data);
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
		capture_row(data, op);
	else
		capture_statement(data, op);
	return PointerGetDatum(NULL);
}
