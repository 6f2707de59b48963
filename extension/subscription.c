/*
 * subscription.c
 *		Who wants which events, and where to: eventstore.subscription.
 *
 * Whoever may call these functions may subscribe; what exists is changed by its
 * owner (or a member of that role) alone.  The table itself is the extension
 * owner's, and so are the statements here.
 *
 * Two callers with one name meet at the row: each locks it before it looks, and
 * a row that is not there is inserted with ON CONFLICT DO NOTHING, which waits
 * for the other's transaction.
 *
 * Whatever changes the table, a trigger on it invalidates its relcache entry.
 * Workers that hold subscriptions in memory load them again when they hear of
 * it, which is before they take the next snapshot.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "extension/catalog.h"
#include "extension/commit_wake.h"
#include "extension/feed.h"
#include "extension/own_statements.h"
#include "extension/progress.h"
#include "extension/subscription.h"

PG_FUNCTION_INFO_V1(es_subscribe);
PG_FUNCTION_INFO_V1(es_alter_subscription);
PG_FUNCTION_INFO_V1(es_unsubscribe);
PG_FUNCTION_INFO_V1(es_pause);
PG_FUNCTION_INFO_V1(es_resume);
PG_FUNCTION_INFO_V1(es_subscription_changed);

/* Longest part of a bad value that an error message repeats. */
#define SHOWN_LENGTH 60

/* What subscribe() defines and alter_subscription() changes. */
typedef struct Definition
{
	char	   *endpoint;
	ArrayType  *types;
	JsonPath   *filter;			/* NULL: none */
} Definition;

/* A row of the table, locked. */
typedef struct Stored
{
	int32		id;
	Definition	definition;
	Oid			owner;
	bool		paused;
	char	   *reason;			/* NULL: none */
} Stored;

/* Begin our own statements, for a function that writes. */
static EsStatements
begin_statements(const char *function)
{
	PreventCommandIfReadOnly(function);
	return es_statements_begin();
}

/* Run a statement with up to five arguments; a Datum 0 of a reference type is NULL. */
static void
execute(const char *statement, int nargs, const Oid *types, const Datum *values)
{
	char		nulls[5];

	Assert(nargs <= lengthof(nulls));
	for (int i = 0; i < nargs; i++)
		nulls[i] = (types[i] != INT4OID && values[i] == (Datum) 0) ? 'n' : ' ';
	SPI_execute_with_args(statement, nargs, (Oid *) types, (Datum *) values, nulls, false, 0);
}

static void
null_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		null_argument("subscription name");
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/* Raise an error unless a new subscription can have this name. */
static void
check_name(const char *name)
{
	int			length = strlen(name);

	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription name must not be empty")));
	if (length >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription name \"%.*s...\" is too long",
						pg_mbcliplen(name, length, SHOWN_LENGTH), name),
				 errdetail("It has %d bytes, the limit is %d.", length, NAMEDATALEN - 1)));
	if (es_has_control_character(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription name must not contain control characters")));
}

/* The same patterns as a plain list, so that equal ones look equal. */
static ArrayType *
plain_array(ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	return construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT);
}

static char *
show_types(ArrayType *types)
{
	return OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(types));
}

static char *
show_filter(JsonPath *filter)
{
	if (filter == NULL)
		return "none";
	return DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(filter)));
}

/* How `b` differs from `a`, for an error's detail; NULL when it does not. */
static char *
definition_difference(const Definition *a, const Definition *b)
{
	const char *was[] = {a->endpoint, show_types(a->types), show_filter(a->filter)};
	const char *is[] = {b->endpoint, show_types(b->types), show_filter(b->filter)};
	const char *what[] = {"endpoint", "types", "filter"};
	StringInfoData difference;

	initStringInfo(&difference);
	for (int i = 0; i < lengthof(what); i++)
	{
		if (strcmp(was[i], is[i]) != 0)
			appendStringInfo(&difference, "%s%s %s, not %s", difference.len == 0 ? "It has " : "; ",
							 what[i], was[i], is[i]);
	}
	if (difference.len == 0)
		return NULL;
	appendStringInfoChar(&difference, '.');
	return difference.data;
}

/* Read a subscription and lock its row; false when there is none. */
static bool
lock_subscription(const char *name, Stored *stored)
{
	Oid			types[] = {TEXTOID};
	Datum		args[] = {CStringGetTextDatum(name)};
	HeapTuple	tuple;
	TupleDesc	desc;
	Datum		value;
	bool		isnull;

	execute("SELECT id, endpoint, types, filter, owner, state, state_reason FROM " ES_SCHEMA ".subscription "
			"WHERE name OPERATOR(pg_catalog.=) $1 FOR UPDATE",
			1, types, args);
	if (SPI_processed == 0)
		return false;

	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	stored->id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
	stored->definition.endpoint = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));
	stored->definition.types = DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 3, &isnull));
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	stored->definition.filter = isnull ? NULL : DatumGetJsonPathP(value);
	stored->owner = DatumGetObjectId(SPI_getbinval(tuple, desc, 5, &isnull));
	stored->paused = strcmp(TextDatumGetCString(SPI_getbinval(tuple, desc, 6, &isnull)), "active") != 0;
	value = SPI_getbinval(tuple, desc, 7, &isnull);
	stored->reason = isnull ? NULL : TextDatumGetCString(value);
	return true;
}

static void
check_owner(const Stored *stored, const char *name, Oid caller)
{
	if (!has_privs_of_role(caller, stored->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of subscription \"%s\"", name)));
}

/* Lock a subscription that the caller may change; an error if there is none. */
static Stored
lock_own_subscription(const char *name, Oid caller)
{
	Stored		stored;

	if (!lock_subscription(name, &stored))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name)));
	check_owner(&stored, name, caller);
	return stored;
}

static void
update_definition(int32 id, const Definition *definition)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTARRAYOID, JSONPATHOID};
	Datum		args[] = {Int32GetDatum(id), CStringGetTextDatum(definition->endpoint),
					PointerGetDatum(definition->types), PointerGetDatum(definition->filter)};

	execute("UPDATE " ES_SCHEMA ".subscription SET endpoint = $2, types = $3, filter = $4 "
			"WHERE id OPERATOR(pg_catalog.=) $1",
			4, types, args);
}

/* Insert a subscription and where it begins; false if the name is taken meanwhile. */
static bool
insert_subscription(const char *name, const Definition *definition, Oid owner, int64 position)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTARRAYOID, JSONPATHOID, REGROLEOID};
	Datum		args[] = {CStringGetTextDatum(name), CStringGetTextDatum(definition->endpoint),
					PointerGetDatum(definition->types), PointerGetDatum(definition->filter),
					ObjectIdGetDatum(owner)};
	EsSubscription sub = {0};
	const EsSubscription *subs[] = {&sub};
	bool		isnull;

	execute("INSERT INTO " ES_SCHEMA ".subscription (name, endpoint, types, filter, owner) "
			"VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING RETURNING id",
			5, types, args);
	if (SPI_processed == 0)
		return false;

	/*
	 * As if what lies before had been delivered: a listener that has read less
	 * than that finds at the first notification that it must read on.
	 */
	sub.id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	sub.position = position;
	sub.previous = position;
	es_progress_write(subs, 1);
	return true;
}

/* Where a new subscription begins; `start_after` is NULL for "from now". */
static int64
start_position(const int64 *start_after)
{
	Snapshot	snapshot = GetActiveSnapshot();
	int64		head = es_feed_head(snapshot);

	if (start_after == NULL)
		return head;

	if (*start_after < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_after must not be negative")));
	if (*start_after > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_after " INT64_FORMAT " is beyond the head of the feed, which is " INT64_FORMAT,
						*start_after, head)));
	es_feed_check_position(snapshot, *start_after);
	return *start_after;
}

/*
 * subscribe(name text, endpoint text, types text[], filter jsonpath,
 *			 start_after bigint, replace boolean)
 *
 * Have the events of some types that pass the filter delivered to an endpoint,
 * from now on or from after a position.  If the subscription exists: nothing
 * when it is the same; an error when it is another, or with `replace` a change
 * that keeps its progress.
 */
Datum
es_subscribe(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Definition	definition;
	int64		start_after;
	bool		replace;
	int64		position;
	EsStatements statements;
	Stored		stored;

	check_name(name);
	if (PG_ARGISNULL(1))
		null_argument("endpoint");
	definition.endpoint = text_to_cstring(PG_GETARG_TEXT_PP(1));
	(void) es_endpoint_parse(definition.endpoint);
	if (PG_ARGISNULL(2))
		null_argument("types");
	(void) es_type_filter_make(PG_GETARG_ARRAYTYPE_P(2));
	definition.types = plain_array(PG_GETARG_ARRAYTYPE_P(2));
	definition.filter = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONPATH_P(3);
	if (definition.filter != NULL)
		es_filter_check(definition.filter);
	start_after = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4);
	position = start_position(PG_ARGISNULL(4) ? NULL : &start_after);
	if (PG_ARGISNULL(5))
		null_argument("replace");
	replace = PG_GETARG_BOOL(5);

	statements = begin_statements("eventstore.subscribe()");
	for (;;)
	{
		char	   *difference;

		CHECK_FOR_INTERRUPTS();
		if (!lock_subscription(name, &stored))
		{
			if (insert_subscription(name, &definition, statements.caller, position))
				break;
			continue;
		}

		difference = definition_difference(&stored.definition, &definition);
		if (difference == NULL)
			ereport(NOTICE,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("subscription \"%s\" exists already with this definition", name)));
		else if (!replace)
		{
			/* What others have subscribed to is nobody's business. */
			bool		own = has_privs_of_role(statements.caller, stored.owner);

			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("subscription \"%s\" exists already with another definition", name),
					 own ? errdetail_internal("%s", difference) : 0,
					 own ? errhint("Pass replace => true to change it; it keeps its progress.") :
						   errhint("It belongs to another role. Choose another name.")));
		}
		else
		{
			check_owner(&stored, name, statements.caller);
			update_definition(stored.id, &definition);
		}
		break;
	}
	es_statements_end(&statements);
	PG_RETURN_VOID();
}

static void
wrong_member(const char *name, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" must be %s", name, expected)));
}

static char *
string_from_json(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static ArrayType *
types_from_json(const JsonbValue *value)
{
	JsonbContainer *array = value->val.binary.data;
	Datum	   *elements;
	int			count;

	if (value->type != jbvBinary || !JsonContainerIsArray(array))
		wrong_member("types", "an array of strings");

	count = JsonContainerSize(array);
	elements = palloc_array(Datum, count + 1);
	for (int i = 0; i < count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);

		if (element->type != jbvString)
			wrong_member("types", "an array of strings");
		elements[i] = CStringGetTextDatum(string_from_json(element));
	}
	return construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * Put the members of alter_subscription()'s changes into a definition.
 * Everything is checked, also what does not change.
 */
static void
apply_changes(Jsonb *changes, Definition *definition)
{
	JsonbIterator *it = JsonbIteratorInit(&changes->root);
	JsonbValue	key;
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &key, true);	/* WJB_BEGIN_OBJECT */
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		char	   *name = string_from_json(&key);

		(void) JsonbIteratorNext(&it, &value, true);
		if (strcmp(name, "endpoint") == 0)
		{
			if (value.type != jbvString)
				wrong_member(name, "a string");
			definition->endpoint = string_from_json(&value);
			(void) es_endpoint_parse(definition->endpoint);
		}
		else if (strcmp(name, "types") == 0)
		{
			definition->types = types_from_json(&value);
			(void) es_type_filter_make(definition->types);
		}
		else if (strcmp(name, "filter") == 0)
		{
			if (value.type != jbvString && value.type != jbvNull)
				wrong_member(name, "a string with a jsonpath, or null");
			definition->filter = NULL;
			if (value.type == jbvString)
			{
				char	   *path = string_from_json(&value);

				definition->filter =
					DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(path)));
				es_filter_check(definition->filter);
			}
		}
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown key \"%s\" in changes", name),
					 errhint("Known keys: endpoint, types, filter")));
	}
}

/*
 * alter_subscription(name text, changes jsonb)
 *
 * Change the given members of {"endpoint", "types", "filter"}, and keep the
 * rest and the progress.
 */
Datum
es_alter_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Jsonb	   *changes;
	EsStatements statements;
	Stored		stored;
	Definition	definition;

	if (PG_ARGISNULL(1))
		null_argument("changes");
	changes = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(changes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changes must be a JSON object")));

	statements = begin_statements("eventstore.alter_subscription()");
	stored = lock_own_subscription(name, statements.caller);
	definition = stored.definition;
	apply_changes(changes, &definition);
	if (definition_difference(&stored.definition, &definition) != NULL)
		update_definition(stored.id, &definition);
	es_statements_end(&statements);
	PG_RETURN_VOID();
}

/*
 * unsubscribe(name text, if_exists boolean)
 *
 * End a subscription and forget its progress.
 */
Datum
es_unsubscribe(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	bool		if_exists;
	EsStatements statements;
	Stored		stored;

	if (PG_ARGISNULL(1))
		null_argument("if_exists");
	if_exists = PG_GETARG_BOOL(1);

	statements = begin_statements("eventstore.unsubscribe()");
	if (if_exists && !lock_subscription(name, &stored))
		ereport(NOTICE,
				(errmsg("subscription \"%s\" does not exist, skipping", name)));
	else
	{
		Oid			types[] = {INT4OID};
		Datum		args[1];

		/*
		 * A worker that has not heard of it may still append a row; nobody
		 * reads that, since the id is not used again.
		 */
		stored = lock_own_subscription(name, statements.caller);
		args[0] = Int32GetDatum(stored.id);
		execute("DELETE FROM " ES_SCHEMA ".subscription WHERE id OPERATOR(pg_catalog.=) $1",
				1, types, args);
		execute("DELETE FROM " ES_INTERNAL_SCHEMA ".progress WHERE subscription OPERATOR(pg_catalog.=) $1",
				1, types, args);
	}
	es_statements_end(&statements);
	PG_RETURN_VOID();
}

static void
update_state(int32 id, const char *state, const char *reason)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID};
	Datum		args[] = {Int32GetDatum(id), CStringGetTextDatum(state),
					reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason)};

	execute("UPDATE " ES_SCHEMA ".subscription SET state = $2, state_reason = $3 "
			"WHERE id OPERATOR(pg_catalog.=) $1",
			3, types, args);
}

/*
 * pause(name text, reason text)
 *
 * Deliver nothing until resume(); events are kept.
 */
Datum
es_pause(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	char	   *reason = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	EsStatements statements = begin_statements("eventstore.pause()");
	Stored		stored = lock_own_subscription(name, statements.caller);

	if (stored.paused)
		ereport(NOTICE, (errmsg("subscription \"%s\" is paused already", name)));
	if (!stored.paused || reason != NULL)
		update_state(stored.id, "paused", reason);
	es_statements_end(&statements);
	PG_RETURN_VOID();
}

/*
 * resume(name text)
 *
 * Deliver what has come since pause(), and go on.
 */
Datum
es_resume(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	EsStatements statements = begin_statements("eventstore.resume()");
	Stored		stored = lock_own_subscription(name, statements.caller);

	if (!stored.paused)
		ereport(NOTICE, (errmsg("subscription \"%s\" is active already", name)));
	else
		update_state(stored.id, "active", NULL);
	es_statements_end(&statements);
	PG_RETURN_VOID();
}

/*
 * AFTER statement trigger, always enabled, on eventstore.subscription: at
 * commit, have workers load it again, and wake the dispatcher to do so.
 */
Datum
es_subscription_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("subscription_changed() must be called by a trigger")));

	CacheInvalidateRelcacheByRelid(es_relation_oid(ES_SUBSCRIPTION));
	es_commit_wake_mark();
	return PointerGetDatum(NULL);
}

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
	if (list == NIL)
		es_check_not_rewritten(rel, snapshot);
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
		else
		{
			/* To begin anywhere would repeat events, or skip some. */
			sub->position = -1;
			if (!sub->active)
				continue;
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
