/*
 * capture_table.c
 *		Sets up capture of a table in one call: capture_table(),
 *		uncapture_table().
 *
 * What they make are ordinary triggers, one per operation because PostgreSQL
 * allows transition tables for one event only, and they make them with the
 * caller's rights: whoever may create a trigger on the table may capture it.
 *
 * The definition is checked by making the plan of each trigger (capture_plan.c)
 * before any is created.  The triggers then depend on the columns they name, so
 * that DROP COLUMN is refused instead of breaking every later write.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "extension/capture_args.h"
#include "extension/capture_plan.h"
#include "extension/catalog.h"
#include "extension/compat.h"

PG_FUNCTION_INFO_V1(es_capture_table);
PG_FUNCTION_INFO_V1(es_uncapture_table);

#define DEFAULT_TYPE "{table}.{op}"

static const struct
{
	const char *trigger;
	const char *event;
	int16		tgtype;
}			triggers[ES_NUM_CAPTURE_OPS] = {
	[ES_CAPTURE_INSERT] = {"eventstore_capture_insert", "INSERT", TRIGGER_TYPE_INSERT},
	[ES_CAPTURE_UPDATE] = {"eventstore_capture_update", "UPDATE", TRIGGER_TYPE_UPDATE},
	[ES_CAPTURE_DELETE] = {"eventstore_capture_delete", "DELETE", TRIGGER_TYPE_DELETE},
};

/* The arguments of capture_table(). */
typedef struct Definition
{
	char	   *type;			/* NULL: the default */
	char	   *key;			/* likewise */
	bool		ops[ES_NUM_CAPTURE_OPS];
	List	   *columns;		/* of char *; NIL: all */
	List	   *changed;		/* NIL: any */
	bool		old;
} Definition;

/* A trigger to be: as CREATE TRIGGER would describe it. */
typedef struct Wanted
{
	Trigger		trigger;
	bool		has_old_table;
	bool		has_new_table;
} Wanted;

static const char *
qualified_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

static void
null_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

/* The strings of an array argument. */
static List *
strings_from_array(ArrayType *array, const char *name)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *strings = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name)));
		strings = lappend(strings, TextDatumGetCString(elements[i]));
	}
	return strings;
}

static void
set_op(Definition *definition, const char *name)
{
	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		if (strcmp(name, es_capture_op_names[op]) == 0)
		{
			definition->ops[op] = true;
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown operation \"%s\" in ops", name),
			 errhint("Operations are insert, update and delete.")));
}

static Definition
definition_from_arguments(FunctionCallInfo fcinfo)
{
	Definition	definition = {0};
	ListCell   *lc;

	if (!PG_ARGISNULL(1))
		definition.key = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (PG_ARGISNULL(2))
		null_argument("type");
	definition.type = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (strcmp(definition.type, DEFAULT_TYPE) == 0)
		definition.type = NULL;

	if (PG_ARGISNULL(3))
		null_argument("ops");
	foreach(lc, strings_from_array(PG_GETARG_ARRAYTYPE_P(3), "ops"))
		set_op(&definition, lfirst(lc));

	if (!PG_ARGISNULL(4))
		definition.columns = strings_from_array(PG_GETARG_ARRAYTYPE_P(4), "columns");
	if (!PG_ARGISNULL(5))
		definition.changed = strings_from_array(PG_GETARG_ARRAYTYPE_P(5), "changed");
	if (PG_ARGISNULL(6))
		null_argument("old");
	definition.old = PG_GETARG_BOOL(6);

	if (definition.changed != NIL && !definition.ops[ES_CAPTURE_UPDATE])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changed has no meaning unless ops contains update")));
	return definition;
}

/*
 * Open a table to be captured, locked as CREATE TRIGGER locks it; an error if
 * it cannot be captured, or not by the caller.
 */
static Relation
open_target(Oid relid)
{
	Relation	rel;
	const char *schema;

	/* Nobody shall lock what he may not touch. */
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
		pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));

	rel = try_relation_open(relid, ShareRowExclusiveLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));

	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel)),
				 errdetail("Statement triggers with the changed rows exist for tables only.")));

	schema = get_namespace_name(RelationGetNamespace(rel));
	if (strcmp(schema, ES_SCHEMA) == 0 || strcmp(schema, ES_INTERNAL_SCHEMA) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s.%s\" cannot be captured", schema, RelationGetRelationName(rel)),
				 errdetail("It is one of eventstore's own.")));

	if (rel->rd_rel->relispartition)
	{
		Oid			root = llast_oid(get_partition_ancestors(relid));

		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a partition", RelationGetRelationName(rel)),
				 errdetail("Its statement triggers do not see what is changed through the partitioned table."),
				 errhint("Capture the partitioned table: %s.",
						 quote_qualified_identifier(get_namespace_name(get_rel_namespace(root)),
													get_rel_name(root)))));
	}
	return rel;
}

static char *
column_list(const char *argument, List *columns)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	appendStringInfoString(&list, argument);
	foreach(lc, columns)
		es_capture_append_column(&list, lc == list_head(columns), lfirst(lc));
	return list.data;
}

/* The trigger for one operation.  Defaults are left out, for a short \d. */
static Wanted
make_wanted(const Definition *definition, EsCaptureOp op)
{
	Wanted		wanted = {0};
	char	  **args = palloc_array(char *, ES_NUM_CAPTURE_ARGS);
	int			nargs = 0;

	if (definition->type != NULL)
		args[nargs++] = psprintf("type=%s", definition->type);
	if (definition->key != NULL)
		args[nargs++] = psprintf("key=%s", definition->key);
	if (definition->columns != NIL)
		args[nargs++] = column_list("columns=", definition->columns);
	if (definition->changed != NIL && op == ES_CAPTURE_UPDATE)
		args[nargs++] = column_list("changed=", definition->changed);
	if (!definition->old && op == ES_CAPTURE_UPDATE)
		args[nargs++] = "old=false";

	wanted.trigger.tgname = unconstify(char *, triggers[op].trigger);
	wanted.trigger.tgtype = TRIGGER_TYPE_AFTER | triggers[op].tgtype;
	wanted.trigger.tgnargs = nargs;
	wanted.trigger.tgargs = args;
	wanted.has_new_table = (op != ES_CAPTURE_DELETE);
	wanted.has_old_table = (op == ES_CAPTURE_DELETE) ||
		(op == ES_CAPTURE_UPDATE && (definition->old || definition->changed != NIL));
	return wanted;
}

/* The trigger with our name for an operation on an open table, or NULL. */
static const Trigger *
find_trigger(Relation rel, EsCaptureOp op)
{
	TriggerDesc *all = rel->trigdesc;

	for (int i = 0; all != NULL && i < all->numtriggers; i++)
	{
		if (strcmp(all->triggers[i].tgname, triggers[op].trigger) == 0)
			return &all->triggers[i];
	}
	return NULL;
}

static bool
is_same(const Trigger *existing, const Wanted *wanted)
{
	if (existing->tgtype != wanted->trigger.tgtype ||
		(existing->tgoldtable != NULL) != wanted->has_old_table ||
		(existing->tgnewtable != NULL) != wanted->has_new_table ||
		existing->tgqual != NULL || existing->tgnattr != 0 ||
		existing->tgnargs != wanted->trigger.tgnargs)
		return false;
	for (int i = 0; i < existing->tgnargs; i++)
	{
		if (strcmp(existing->tgargs[i], wanted->trigger.tgargs[i]) != 0)
			return false;
	}
	return true;
}

/* Run a command as the caller. */
static void
run_utility(const char *command)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command);
	SPI_finish();
}

static void
create_trigger(const char *table, EsCaptureOp op, const Wanted *wanted)
{
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command, "CREATE OR REPLACE TRIGGER %s AFTER %s ON %s REFERENCING",
					 triggers[op].trigger, triggers[op].event, table);
	if (wanted->has_old_table)
		appendStringInfoString(&command, " OLD TABLE AS old_rows");
	if (wanted->has_new_table)
		appendStringInfoString(&command, " NEW TABLE AS new_rows");
	appendStringInfoString(&command,
						   " FOR EACH STATEMENT EXECUTE FUNCTION " ES_SCHEMA ".capture(");
	for (int i = 0; i < wanted->trigger.tgnargs; i++)
		appendStringInfo(&command, "%s%s", i == 0 ? "" : ", ",
						 quote_literal_cstr(wanted->trigger.tgargs[i]));
	appendStringInfoChar(&command, ')');
	run_utility(command.data);
}

static void
drop_trigger(const char *table, EsCaptureOp op)
{
	run_utility(psprintf("DROP TRIGGER %s ON %s", triggers[op].trigger, table));
}

static void
depend_on_column(const ObjectAddress *trigger, Oid relid, const EsColumn *column)
{
	ObjectAddress address;

	ObjectAddressSubSet(address, RelationRelationId, relid, column->attnum);
	recordDependencyOn(trigger, &address, DEPENDENCY_NORMAL);
}

/*
 * Let a trigger depend on the columns that its arguments name: not on those it
 * merely has by default.
 */
static void
depend_on_columns(Oid relid, EsCaptureOp op, const Definition *definition,
				  const EsCapturePlan *plan)
{
	ObjectAddress trigger;
	const EsCaptureTemplate *templates[] = {
		definition->type ? &plan->type : NULL,
		definition->key ? &plan->key : NULL};

	CommandCounterIncrement();
	ObjectAddressSet(trigger, TriggerRelationId,
					 get_trigger_oid(relid, triggers[op].trigger, false));

	for (int t = 0; t < lengthof(templates); t++)
	{
		for (int i = 0; templates[t] != NULL && i < templates[t]->npieces; i++)
		{
			if (templates[t]->pieces[i].column != NULL)
				depend_on_column(&trigger, relid, templates[t]->pieces[i].column);
		}
	}
	for (int i = 0; definition->columns != NIL && i < plan->ncolumns; i++)
		depend_on_column(&trigger, relid, plan->columns[i]);
	for (int i = 0; i < plan->nchanged; i++)
		depend_on_column(&trigger, relid, plan->changed[i]);
}

/* Say what the caller may not have meant. */
static void
give_notices(Relation rel, const Definition *definition, bool has_key)
{
	if (!has_key)
		ereport(NOTICE,
				(errmsg("events of table \"%s\" will have no key: it has no primary key",
						RelationGetRelationName(rel)),
				 errdetail("Nothing will keep the order of one row's events."),
				 errhint("Add a primary key, or say what to use, for example key => '{table}-{id}'.")));
	if (!rel->rd_rel->relispartition && has_superclass(RelationGetRelid(rel)))
		ereport(NOTICE,
				(errmsg("table \"%s\" inherits from another: what is changed through that one is not captured here",
						RelationGetRelationName(rel)),
				 errhint("Capture the parent too, or use row triggers.")));
}

static Oid
capture_function_oid(void)
{
	return LookupFuncName(list_make2(makeString(ES_SCHEMA), makeString("capture")), 0, NULL, false);
}

/*
 * capture_table(target regclass, key text, type text, ops text[],
 *				 columns text[], changed text[], old boolean)
 *
 * Captures a table with statement triggers; replaces what an earlier call made,
 * unless that is the same.
 */
Datum
es_capture_table(PG_FUNCTION_ARGS)
{
	Definition	definition;
	Relation	rel;
	const char *table;
	Oid			relid;
	Oid			function = capture_function_oid();
	Wanted		wanted[ES_NUM_CAPTURE_OPS];
	EsCapturePlan *plans[ES_NUM_CAPTURE_OPS];
	bool		same[ES_NUM_CAPTURE_OPS];
	bool		has_key = true;

	if (PG_ARGISNULL(0))
		null_argument("target");
	definition = definition_from_arguments(fcinfo);
	relid = PG_GETARG_OID(0);
	rel = open_target(relid);
	table = qualified_name(rel);

	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		const Trigger *existing = find_trigger(rel, op);

		if (existing != NULL && existing->tgfoid != function)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("trigger \"%s\" on table \"%s\" exists and does not call eventstore.capture()",
							existing->tgname, RelationGetRelationName(rel)),
					 errhint("Rename it.")));

		same[op] = (existing == NULL);
		if (!definition.ops[op])
			continue;
		wanted[op] = make_wanted(&definition, op);
		plans[op] = es_capture_plan_make(rel, &wanted[op].trigger);
		has_key = plans[op]->key.npieces > 0;
		same[op] = existing != NULL && is_same(existing, &wanted[op]);
	}

	if (!(same[ES_CAPTURE_INSERT] && same[ES_CAPTURE_UPDATE] && same[ES_CAPTURE_DELETE]))
		give_notices(rel, &definition, has_key);

	/* The lock stays; an open relation would be "in use" for what follows. */
	relation_close(rel, NoLock);

	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		if (same[op])
			continue;
		if (!definition.ops[op])
		{
			drop_trigger(table, op);
			continue;
		}
		create_trigger(table, op, &wanted[op]);
		depend_on_columns(relid, op, &definition, plans[op]);
	}
	PG_RETURN_VOID();
}

/*
 * uncapture_table(target regclass)
 *
 * Drops what capture_table() made.
 */
Datum
es_uncapture_table(PG_FUNCTION_ARGS)
{
	Relation	rel;
	const char *table;
	const char *name;
	Oid			function = capture_function_oid();
	bool		exists[ES_NUM_CAPTURE_OPS];
	bool		any = false;

	if (PG_ARGISNULL(0))
		null_argument("target");
	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", PG_GETARG_OID(0))));
	table = qualified_name(rel);
	name = pstrdup(RelationGetRelationName(rel));
	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		const Trigger *existing = find_trigger(rel, op);

		exists[op] = existing != NULL && existing->tgfoid == function;
		any |= exists[op];
	}
	/* Released: DROP TRIGGER checks who asks before it takes its own. */
	relation_close(rel, AccessShareLock);

	if (!any)
		ereport(NOTICE, (errmsg("table \"%s\" is not captured by capture_table()", name)));
	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		if (exists[op])
			drop_trigger(table, op);
	}
	PG_RETURN_VOID();
}
