/*
 * emit.c
 *		SQL functions that emit: emit(), emit_once(), emit_batch().
 *
 * They check every argument and hand the event to the outbox.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "extension/event_type.h"
#include "extension/outbox.h"

PG_FUNCTION_INFO_V1(es_emit);
PG_FUNCTION_INFO_V1(es_emit_once);
PG_FUNCTION_INFO_V1(es_emit_batch);

/* Longest part of a key that an error message repeats. */
#define SHOWN_LENGTH 64

static void
null_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

static void
check_key(const char *key, int length)
{
	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event key must not be empty"),
				 errhint("Leave it out, or pass NULL, for an event that needs no order.")));
	if (length > ES_MAX_KEY_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event key \"%.*s...\" is too long",
						pg_mbcliplen(key, length, SHOWN_LENGTH), key),
				 errdetail("It has %d bytes, the limit is %d.", length, ES_MAX_KEY_LENGTH)));
	if (key[0] == '{')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event key \"%.*s\" looks like a JSON object",
						pg_mbcliplen(key, length, SHOWN_LENGTH), key),
				 errhint("The third argument is the key. Pass headers by name: headers => '{...}'.")));
}

static void
check_headers(Jsonb *headers)
{
	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event headers must be a JSON object")));
}

/*
 * Take an event from the arguments (type, payload, key, headers, deliver_at)
 * that begin at argument number `first`.
 */
static EsNewEvent
event_from_arguments(FunctionCallInfo fcinfo, int first)
{
	EsNewEvent	event;

	if (PG_ARGISNULL(first))
		null_argument("event type");
	if (PG_ARGISNULL(first + 1))
		null_argument("event payload");
	if (PG_ARGISNULL(first + 3))
		null_argument("event headers");
	if (!PG_ARGISNULL(first + 4))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("deliver_at is not supported yet")));

	event.type = PG_GETARG_TEXT_PP(first);
	event.payload = PG_GETARG_JSONB_P(first + 1);
	event.key = PG_ARGISNULL(first + 2) ? NULL : PG_GETARG_TEXT_PP(first + 2);
	event.headers = PG_GETARG_JSONB_P(first + 3);

	es_check_type(VARDATA_ANY(event.type), VARSIZE_ANY_EXHDR(event.type));
	if (event.key != NULL)
		check_key(VARDATA_ANY(event.key), VARSIZE_ANY_EXHDR(event.key));
	check_headers(event.headers);
	return event;
}

/*
 * emit(type text, payload jsonb, key text, headers jsonb, deliver_at timestamptz)
 *
 * Write an event in the current transaction; returns its id.
 */
Datum
es_emit(PG_FUNCTION_ARGS)
{
	EsNewEvent	event = event_from_arguments(fcinfo, 0);

	PG_RETURN_INT64(es_outbox_append(&event, 1));
}

/*
 * emit_once(idempotency_key text, ... as emit)
 *
 * Emit unless an event was emitted with the same idempotency key before;
 * returns the id of the first.
 */
Datum
es_emit_once(PG_FUNCTION_ARGS)
{
	EsNewEvent	event = event_from_arguments(fcinfo, 1);
	text	   *idempotency_key;
	int			length;

	if (PG_ARGISNULL(0))
		null_argument("idempotency key");
	idempotency_key = PG_GETARG_TEXT_PP(0);
	length = VARSIZE_ANY_EXHDR(idempotency_key);
	if (length == 0 || length > ES_MAX_KEY_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("idempotency key \"%.*s\" must have 1 to %d bytes",
						pg_mbcliplen(VARDATA_ANY(idempotency_key), length, SHOWN_LENGTH),
						VARDATA_ANY(idempotency_key), ES_MAX_KEY_LENGTH)));

	PG_RETURN_INT64(es_outbox_append_once(idempotency_key, &event));
}

/* A member of an emit_batch() element, which must be a string. */
static text *
string_member(const char *name, int number, const JsonbValue *value)
{
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of event %d must be a string", name, number)));
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static void
name_event(void *number)
{
	errcontext("event %d of the batch", *(int *) number);
}

/* Take event number `number` (from 1) out of an emit_batch() array. */
static EsNewEvent
event_from_json(JsonbValue *element, int number)
{
	EsNewEvent	event = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event %d must be a JSON object", number)));

	it = JsonbIteratorInit(element->val.binary.data);
	(void) JsonbIteratorNext(&it, &name, true); /* WJB_BEGIN_OBJECT */
	while ((token = JsonbIteratorNext(&it, &name, true)) == WJB_KEY)
	{
#define NAME_IS(s) (name.val.string.len == strlen(s) && memcmp(name.val.string.val, s, strlen(s)) == 0)
		(void) JsonbIteratorNext(&it, &value, true);
		if (NAME_IS("type"))
			event.type = string_member("type", number, &value);
		else if (NAME_IS("payload"))
			event.payload = JsonbValueToJsonb(&value);
		else if (NAME_IS("key"))
			event.key = value.type == jbvNull ? NULL : string_member("key", number, &value);
		else if (NAME_IS("headers"))
			event.headers = JsonbValueToJsonb(&value);
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown member \"%.*s\" of event %d",
							name.val.string.len, name.val.string.val, number),
					 errhint("Members are type, payload, key and headers.")));
#undef NAME_IS
	}

	if (event.type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event %d has no \"type\"", number)));
	es_check_type(VARDATA_ANY(event.type), VARSIZE_ANY_EXHDR(event.type));
	if (event.payload == NULL)
		event.payload = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	if (event.key != NULL)
		check_key(VARDATA_ANY(event.key), VARSIZE_ANY_EXHDR(event.key));
	if (event.headers != NULL)
		check_headers(event.headers);
	return event;
}

/*
 * emit_batch(events jsonb)
 *
 * Emit a JSON array of events, all or none; returns their ids in its order.
 */
Datum
es_emit_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Jsonb	   *array;
	EsNewEvent *events;
	int			count;
	int			number = 0;
	ErrorContextCallback callback = {.callback = name_event, .arg = &number};
	int64		first_id;

	if (PG_ARGISNULL(0))
		null_argument("list of events");
	array = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("list of events must be a JSON array")));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	count = JB_ROOT_COUNT(array);
	if (count == 0)
		PG_RETURN_NULL();

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	events = palloc_array(EsNewEvent, count);
	while (number < count)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(&array->root, number++);

		CHECK_FOR_INTERRUPTS();
		events[number - 1] = event_from_json(element, number);
	}
	error_context_stack = callback.previous;

	first_id = es_outbox_append(events, count);
	for (int i = 0; i < count; i++)
	{
		Datum		id = Int64GetDatum(first_id + i);
		bool		isnull = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &id, &isnull);
	}
	PG_RETURN_NULL();
}
