/*
 * capture_plan.c
 *		What a capture trigger does, worked out once per session.
 *
 * A plan is a trigger's arguments held against its table: columns found,
 * templates cut up, the fixed parts of types, keys and payloads laid out.
 *
 * Events name the table on which somebody created the trigger.  A row trigger
 * of a partitioned table is cloned to its partitions and fires there; types
 * and keys must not depend on the partition, so the plan follows the clone to
 * its origin ("root") and takes name and primary key from there.
 *
 * Plans are kept by trigger OID and dropped by the invalidation callbacks.
 * While a trigger fires, user code may run below it (an output function, a cast
 * to json), and that may make us replace the very plan in use; so plans that
 * are no longer valid are handed to the transaction, to be freed at its end.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "extension/capture_args.h"
#include "extension/capture_plan.h"
#include "extension/capture_text.h"
#include "extension/compat.h"

const char *const es_capture_op_names[ES_NUM_CAPTURE_OPS] = {
	[ES_CAPTURE_INSERT] = "insert",
	[ES_CAPTURE_UPDATE] = "update",
	[ES_CAPTURE_DELETE] = "delete",
};

/* Needed for looking up columns while a plan is made. */
typedef struct PlanMaker
{
	EsCapturePlan *plan;
	const EsCaptureArgs *args;
	TupleDesc	desc;
	EsColumn  **columns;		/* by attnum - 1; NULL: not needed so far */
} PlanMaker;

/* A plan that is kept. */
typedef struct KeptPlan
{
	Oid			trigger;		/* hash key */
	bool		valid;
	Oid			relid;
	Oid			root;
	EsCapturePlan *plan;
} KeptPlan;

static HTAB *kept_plans;

/* Counts what the callbacks heard, to notice what happens while a plan is made. */
static uint64 invalidations;

/*
 * The table whose trigger this is a clone of, or the trigger's own.
 */
static Oid
find_root(const Trigger *trigger, Oid relid)
{
	Oid			current = trigger->tgoid;
	bool		is_clone = trigger->tgisclone;

	while (is_clone)
	{
		Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(current));
		scan = systable_beginscan(pg_trigger, TriggerOidIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "trigger %u not found", current);
		relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
		current = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		is_clone = OidIsValid(current);
		systable_endscan(scan);
		table_close(pg_trigger, AccessShareLock);
	}
	return relid;
}

/*
 * Names of the primary key's columns.  Read from the catalog: the table may be
 * a root on which this statement, naming a partition, has no lock, and waiting
 * for one here could deadlock.
 */
static List *
primary_key_columns(Oid relid)
{
	Relation	pg_index = table_open(IndexRelationId, AccessShareLock);
	List	   *names = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_index, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (names == NIL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (!index->indisprimary)
			continue;
		for (int i = 0; i < index->indnkeyatts; i++)
		{
			char	   *name = get_attname(relid, index->indkey.values[i], true);

			if (name != NULL)
				names = lappend(names, name);
		}
	}
	systable_endscan(scan);
	table_close(pg_index, AccessShareLock);
	return names;
}

/* The column at an attribute number, prepared on first use. */
static EsColumn *
column_at(PlanMaker *maker, int attnum)
{
	EsColumn  **column = &maker->columns[attnum - 1];

	if (*column == NULL)
	{
		*column = palloc0(sizeof(EsColumn));
		es_column_init(*column, TupleDescAttr(maker->desc, attnum - 1), CurrentMemoryContext);
		maker->plan->last_attnum = Max(maker->plan->last_attnum, attnum);
	}
	return *column;
}

/* The column of that name, or NULL. */
static EsColumn *
find_column(PlanMaker *maker, const char *name)
{
	for (int i = 0; i < maker->desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(maker->desc, i);

		if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), name) == 0)
			return column_at(maker, i + 1);
	}
	return NULL;
}

/* The column of that name; an error if there is none. */
static EsColumn *
require_column(PlanMaker *maker, EsCaptureArg which, const char *name)
{
	EsColumn   *column = find_column(maker, name);
	const char **names;
	int			count = 0;
	const char *closest;

	if (column != NULL)
		return column;

	names = palloc_array(const char *, maker->desc->natts + 1);
	for (int i = 0; i < maker->desc->natts; i++)
	{
		if (!TupleDescAttr(maker->desc, i)->attisdropped)
			names[count++] = NameStr(TupleDescAttr(maker->desc, i)->attname);
	}
	closest = es_capture_closest(name, names, count);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of table \"%s.%s\" does not exist", es_capture_shown(name),
					maker->plan->schema, maker->plan->table),
			 errdetail("Argument \"%s\" of trigger \"%s\" names it.",
					   maker->args->given[which], maker->args->trigger),
			 closest ? errhint("Perhaps you meant \"%s\".", closest) :
					   errhint("If the column was renamed or dropped, create the trigger anew, or call eventstore.capture_table() again.")));
	pg_unreachable();
}

/* Find the columns of a list, each once. */
static EsColumn **
require_columns(PlanMaker *maker, EsCaptureArg which, List *names, int *count)
{
	EsColumn  **columns = palloc_array(EsColumn *, list_length(names) + 1);
	ListCell   *lc;

	*count = 0;
	foreach(lc, names)
	{
		EsColumn   *column = require_column(maker, which, lfirst(lc));
		int			i = 0;

		while (i < *count && columns[i] != column)
			i++;
		if (i == *count)
			columns[(*count)++] = column;
	}
	return columns;
}

static void
add_text(EsCaptureTemplate *template, const char *text)
{
	EsCapturePiece *piece = &template->pieces[template->npieces++];

	piece->text = pstrdup(text);
	piece->length = strlen(text);
}

static void
add_column(EsCaptureTemplate *template, EsColumn *column)
{
	template->pieces[template->npieces++].column = column;
	template->has_column = true;
}

/* Hold a template against the table.  table, schema and op win over columns. */
static void
make_template(PlanMaker *maker, EsCaptureArg which, List *pieces, EsCaptureTemplate *template)
{
	ListCell   *lc;

	template->pieces = palloc0_array(EsCapturePiece, list_length(pieces));
	foreach(lc, pieces)
	{
		const EsTemplatePiece *piece = lfirst(lc);

		if (!piece->is_placeholder)
			add_text(template, piece->text);
		else if (strcmp(piece->text, "table") == 0)
			add_text(template, maker->plan->table);
		else if (strcmp(piece->text, "schema") == 0)
			add_text(template, maker->plan->schema);
		else if (strcmp(piece->text, "op") == 0)
			template->pieces[template->npieces++].is_op = true;
		else
			add_column(template, require_column(maker, which, piece->text));
	}
}

/* {table}.{op} */
static void
make_default_type(const EsCapturePlan *plan, EsCaptureTemplate *template)
{
	template->pieces = palloc0_array(EsCapturePiece, 3);
	add_text(template, plan->table);
	add_text(template, ".");
	template->pieces[template->npieces++].is_op = true;
}

/* The table's name and the primary key, joined by dashes; nothing without one. */
static void
make_default_key(PlanMaker *maker, EsCaptureTemplate *template)
{
	List	   *names = primary_key_columns(maker->plan->root);
	ListCell   *lc;

	if (names == NIL)
		return;
	template->pieces = palloc0_array(EsCapturePiece, 1 + 2 * list_length(names));
	add_text(template, maker->plan->table);
	foreach(lc, names)
	{
		add_text(template, "-");
		add_column(template, require_column(maker, ES_ARG_KEY, lfirst(lc)));
	}
}

static int
compare_columns(const void *a, const void *b)
{
	return es_jsonb_compare_names(NameStr((*(EsColumn *const *) a)->name),
								  NameStr((*(EsColumn *const *) b)->name));
}

/* Which columns the images show, and their names laid out. */
static void
make_image(PlanMaker *maker)
{
	EsCapturePlan *plan = maker->plan;
	const char **names;

	if (maker->args->columns != NIL)
		plan->columns = require_columns(maker, ES_ARG_COLUMNS, maker->args->columns,
										&plan->ncolumns);
	else
	{
		plan->columns = palloc_array(EsColumn *, maker->desc->natts + 1);
		for (int i = 0; i < maker->desc->natts; i++)
		{
			if (!TupleDescAttr(maker->desc, i)->attisdropped)
				plan->columns[plan->ncolumns++] = column_at(maker, i + 1);
		}
	}

	qsort(plan->columns, plan->ncolumns, sizeof(EsColumn *), compare_columns);
	names = palloc_array(const char *, plan->ncolumns + 1);
	for (int i = 0; i < plan->ncolumns; i++)
		names[i] = NameStr(plan->columns[i]->name);
	es_jsonb_prepare_names(&plan->column_names, names, plan->ncolumns);
}

static void
make_envelopes(EsCapturePlan *plan)
{
	static const char *const with_new[] = {"op", "new", "table", "schema"};
	static const char *const with_old[] = {"op", "old", "table", "schema"};
	static const char *const with_both[] = {"op", "new", "old", "table", "schema"};

	es_jsonb_prepare_names(&plan->envelopes[ES_ENVELOPE_NEW], with_new, lengthof(with_new));
	es_jsonb_prepare_names(&plan->envelopes[ES_ENVELOPE_OLD], with_old, lengthof(with_old));
	es_jsonb_prepare_names(&plan->envelopes[ES_ENVELOPE_BOTH], with_both, lengthof(with_both));
}

static void
make_payload(PlanMaker *maker)
{
	EsCapturePlan *plan = maker->plan;

	plan->payload = require_column(maker, ES_ARG_PAYLOAD, maker->args->payload);
	if (plan->payload->type != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of table \"%s.%s\" is not of type jsonb",
						maker->args->payload, plan->schema, plan->table),
				 errdetail("Argument \"%s\" of trigger \"%s\" wants it as payload.",
						   maker->args->given[ES_ARG_PAYLOAD], maker->args->trigger)));
}

/* changed= and old= say something about UPDATE only. */
static void
check_update_arguments(const EsCaptureArgs *args, const Trigger *trigger)
{
	static const EsCaptureArg update_only[] = {ES_ARG_CHANGED, ES_ARG_OLD};

	if (TRIGGER_FOR_UPDATE(trigger->tgtype))
		return;
	for (int i = 0; i < lengthof(update_only); i++)
	{
		if (args->given[update_only[i]] != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s\" of trigger \"%s\" is for UPDATE",
							args->given[update_only[i]], args->trigger),
					 errdetail("The trigger does not fire on UPDATE.")));
	}
}

/*
 * Make a plan, in the current memory context, of a trigger on an open table.
 * Errors: everything that can be wrong with the trigger's arguments.
 */
EsCapturePlan *
es_capture_plan_make(Relation rel, const Trigger *trigger)
{
	EsCaptureArgs args;
	PlanMaker	maker = {0};
	EsCapturePlan *plan = palloc0(sizeof(EsCapturePlan));
	MemoryContext parsing = AllocSetContextCreate(CurrentMemoryContext,
												  "eventstore capture arguments",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext planning = MemoryContextSwitchTo(parsing);

	es_capture_args_parse(&args, trigger->tgname, trigger->tgnargs, trigger->tgargs);
	check_update_arguments(&args, trigger);
	MemoryContextSwitchTo(planning);

	plan->context = CurrentMemoryContext;
	plan->relid = RelationGetRelid(rel);
	plan->root = find_root(trigger, plan->relid);
	plan->table = get_rel_name(plan->root);
	plan->schema = get_namespace_name(get_rel_namespace(plan->root));
	if (plan->table == NULL || plan->schema == NULL)
		elog(ERROR, "cache lookup failed for relation %u", plan->root);
	plan->old = args.old;

	maker.plan = plan;
	maker.args = &args;
	maker.desc = RelationGetDescr(rel);
	maker.columns = palloc0_array(EsColumn *, maker.desc->natts + 1);

	if (args.type != NIL)
		make_template(&maker, ES_ARG_TYPE, args.type, &plan->type);
	else
		make_default_type(plan, &plan->type);
	if (args.key != NIL)
		make_template(&maker, ES_ARG_KEY, args.key, &plan->key);
	else
		make_default_key(&maker, &plan->key);
	plan->changed = require_columns(&maker, ES_ARG_CHANGED, args.changed, &plan->nchanged);
	if (args.payload != NULL)
		make_payload(&maker);
	else
		make_image(&maker);
	make_envelopes(plan);

	for (int op = 0; op < ES_NUM_CAPTURE_OPS; op++)
	{
		if (!plan->type.has_column)
			plan->type.fixed[op] = es_capture_type(plan, op, NULL);
		if (!plan->key.has_column)
			plan->key.fixed[op] = es_capture_key(plan, op, NULL);
	}
	MemoryContextDelete(parsing);
	return plan;
}

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	KeptPlan   *kept;

	invalidations++;
	if (kept_plans == NULL)
		return;
	hash_seq_init(&scan, kept_plans);
	while ((kept = hash_seq_search(&scan)) != NULL)
	{
		if (relid == InvalidOid || relid == kept->relid || relid == kept->root)
			kept->valid = false;
	}
}

/* A schema was renamed, or a cast to json came or went: rare, so forget all. */
static void
forget_all(Datum arg, int cache, uint32 hash)
{
	forget_relation(arg, InvalidOid);
}

/* Called once per process, while the library is loaded. */
void
es_capture_plan_init(void)
{
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, forget_all, (Datum) 0);
}

/* Hand plans that are no longer valid to the transaction, which frees them. */
static void
drop_invalid_plans(void)
{
	HASH_SEQ_STATUS scan;
	KeptPlan   *kept;

	hash_seq_init(&scan, kept_plans);
	while ((kept = hash_seq_search(&scan)) != NULL)
	{
		if (kept->valid)
			continue;
		MemoryContextSetParent(kept->plan->context, TopTransactionContext);
		hash_search(kept_plans, &kept->trigger, HASH_REMOVE, NULL);
	}
}

static void
make_hash(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(KeptPlan);
	ctl.hcxt = CacheMemoryContext;
	kept_plans = hash_create("eventstore capture plans", 32, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * The plan of a trigger that is firing.  It is good until the transaction
 * ends.
 */
EsCapturePlan *
es_capture_plan_get(Relation rel, const Trigger *trigger)
{
	KeptPlan   *kept;
	EsCapturePlan *plan;
	MemoryContext context;
	MemoryContext old;
	uint64		invalidations_before;

	if (unlikely(kept_plans == NULL))
		make_hash();
	kept = hash_search(kept_plans, &trigger->tgoid, HASH_FIND, NULL);
	if (likely(kept != NULL && kept->valid))
		return kept->plan;

	drop_invalid_plans();

	context = AllocSetContextCreate(CurrentMemoryContext, "eventstore capture plan",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	invalidations_before = invalidations;
	plan = es_capture_plan_make(rel, trigger);
	MemoryContextSwitchTo(old);

	/* The table is locked, so the plan is right now; but is it still later? */
	kept = hash_search(kept_plans, &trigger->tgoid, HASH_ENTER, NULL);
	kept->plan = plan;
	kept->relid = plan->relid;
	kept->root = plan->root;
	kept->valid = (invalidations == invalidations_before);
	MemoryContextSetParent(context, CacheMemoryContext);
	return plan;
}

/* Must the old row of an UPDATE be at hand? */
bool
es_capture_plan_needs_old(const EsCapturePlan *plan)
{
	return plan->nchanged > 0 || (plan->payload == NULL && plan->old);
}
