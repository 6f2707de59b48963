/*
 * catalog.c
 *		The extension's own relations: names, columns, and cached OIDs.
 *
 * OIDs are looked up by name once per session and forgotten when the relcache
 * says that one of the relations changed, so that DROP EXTENSION followed by
 * CREATE EXTENSION in one session works.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "extension/catalog.h"
#include "extension/compat.h"

static const struct
{
	const char *schema;
	const char *name;
	int			ncolumns;		/* of those opened by es_table_open() */
}			relations[ES_NUM_RELATIONS] = {
	[ES_EVENT] = {ES_SCHEMA, "event"},
	[ES_EVENT_ID] = {ES_INTERNAL_SCHEMA, "event_id"},
	[ES_SEGMENT] = {ES_INTERNAL_SCHEMA, "segment", Natts_segment},
	[ES_PASS] = {ES_INTERNAL_SCHEMA, "pass", Natts_pass},
	[ES_EPOCH] = {ES_INTERNAL_SCHEMA, "epoch", Natts_epoch},
	[ES_IDEMPOTENCY] = {ES_INTERNAL_SCHEMA, "idempotency"},
	[ES_SUBSCRIPTION] = {ES_SCHEMA, "subscription"},
	[ES_SUBSCRIPTION_STATUS] = {ES_SCHEMA, "subscription_status"},
	[ES_PROGRESS] = {ES_INTERNAL_SCHEMA, "progress", Natts_progress},
};

static Oid	relation_oids[ES_NUM_RELATIONS];
static Oid	recorded_event_type;

/* Counts when locks were released before the end of their transaction. */
static uint64 rollbacks;

static void
count_rollback(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (phase == RESOURCE_RELEASE_LOCKS && !is_commit)
		rollbacks++;
}

static void
forget_oids(Datum arg, Oid relid)
{
	for (int i = 0; i < ES_NUM_RELATIONS; i++)
	{
		if (relid == InvalidOid || relid == relation_oids[i])
			relation_oids[i] = InvalidOid;
	}
	if (relid == InvalidOid || !OidIsValid(relation_oids[ES_EVENT]))
		recorded_event_type = InvalidOid;
}

/* Called once per process, while the library is loaded. */
void
es_catalog_init(void)
{
	CacheRegisterRelcacheCallback(forget_oids, (Datum) 0);
	RegisterResourceReleaseCallback(count_rollback, NULL);
}

static void
not_installed(const char *schema, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("\"%s.%s\" does not exist", schema, name),
			 errhint("Run CREATE EXTENSION eventstore in this database.")));
}

/* OID of one of our relations; an error if it does not exist. */
Oid
es_relation_oid(EsRelation which)
{
	if (unlikely(!OidIsValid(relation_oids[which])))
	{
		Oid			nsp = get_namespace_oid(relations[which].schema, true);
		Oid			relid = OidIsValid(nsp) ? get_relname_relid(relations[which].name, nsp) : InvalidOid;

		if (!OidIsValid(relid))
			not_installed(relations[which].schema, relations[which].name);
		relation_oids[which] = relid;
	}
	return relation_oids[which];
}

/* OID of the composite type that readers get. */
Oid
es_recorded_event_type(void)
{
	if (!OidIsValid(recorded_event_type))
	{
		Oid			nsp = get_namespace_oid(ES_SCHEMA, true);
		Oid			typid = OidIsValid(nsp) ?
			GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							CStringGetDatum("recorded_event"), ObjectIdGetDatum(nsp)) : InvalidOid;

		if (!OidIsValid(typid))
			not_installed(ES_SCHEMA, "recorded_event");
		recorded_event_type = typid;
	}
	return recorded_event_type;
}

/*
 * Open one of our tables.  Code that takes its rows apart relies on its shape,
 * so somebody who added a column hears of it here.
 */
Relation
es_table_open(EsRelation which, LOCKMODE lockmode)
{
	Relation	rel = table_open(es_relation_oid(which), lockmode);

	if (RelationGetNumberOfAttributes(rel) != relations[which].ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s.%s\" has %d columns, expected %d",
						relations[which].schema, relations[which].name,
						RelationGetNumberOfAttributes(rel), relations[which].ncolumns),
				 errhint("Columns must not be added to the tables of eventstore.")));
	return rel;
}

/*
 * To be called when `snapshot` sees no row in one of our tables.  ALTER TABLE
 * that rewrites is not MVCC-safe: a table rewritten since the snapshot was taken
 * looks empty.  An error, which a retry with another snapshot mends, if that may
 * be why.
 */
void
es_check_not_rewritten(Relation rel, Snapshot snapshot)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(RelationGetRelid(rel)));
	TransactionId xmin;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", RelationGetRelid(rel));
	xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	ReleaseSysCache(tuple);

	if (!TransactionIdIsCurrentTransactionId(xmin) && XidInMVCCSnapshot(xmin, snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s.%s\" was altered after the snapshot was taken",
						get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)),
				 errhint("Try again.")));
}

/*
 * Lock a relation until the current subtransaction ends, and then its parent.
 * An ordinary lock belongs to the cursor in whose query it is taken, if it is
 * one: when a cursor fails in a later subtransaction, its locks go with that,
 * but what was done under them stays.
 */
void
es_lock_for_transaction(Oid relid, LOCKMODE lockmode)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = CurTransactionResourceOwner;
	LockRelationOid(relid, lockmode);
	CurrentResourceOwner = owner;
}

/*
 * Does the current transaction hold a lock that it noted?  If so, the relation
 * can be opened without another look at the lock table, which is a good part
 * of what it costs to emit an event in a statement that emits many.
 *
 * Not when anything was rolled back since: locks may have gone with it.  That
 * need not be the subtransaction that took them, see above.
 */
bool
es_lock_is_kept(const EsKeptLock *lock, Oid relid)
{
	return lock->relid == relid &&
		lock->transaction == es_my_local_xid() &&
		lock->rollbacks == rollbacks;
}

/* Note that the current transaction has locked a relation, and keeps the lock. */
void
es_note_kept_lock(EsKeptLock *lock, Oid relid)
{
	lock->relid = relid;
	lock->transaction = es_my_local_xid();
	lock->rollbacks = rollbacks;
}

/*
 * Is this the predicate "run IS NOT NULL", which the index on a partition's xid
 * has: an entry for each run of events, not for each event?
 */
bool
es_is_run_predicate(List *predicate)
{
	NullTest   *test;

	if (list_length(predicate) != 1 || !IsA(linitial(predicate), NullTest))
		return false;
	test = linitial(predicate);
	return test->nulltesttype == IS_NOT_NULL && IsA(test->arg, Var) &&
		((Var *) test->arg)->varattno == Anum_event_run;
}

static bool
is_ordered_by(Relation index, AttrNumber column)
{
	List	   *predicate;

	if (index->rd_rel->relam != BTREE_AM_OID || !index->rd_index->indisvalid ||
		index->rd_index->indkey.values[0] != column)
		return false;
	predicate = RelationGetIndexPredicate(index);
	return predicate == NIL ||
		(column == Anum_event_xid && es_is_run_predicate(predicate));
}

/*
 * Open the index by which one of our tables or partitions is read in the order
 * of a column: the primary key if it begins with it, else any that does and
 * has all rows (of the xid of events: all runs).  An error if there is none.
 */
Relation
es_index_open(Relation rel, AttrNumber column, LOCKMODE lockmode)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	if (OidIsValid(rel->rd_pkindex))
		indexes = lcons_oid(rel->rd_pkindex, indexes);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), lockmode);

		if (is_ordered_by(index, column))
		{
			list_free(indexes);
			return index;
		}
		index_close(index, lockmode);
	}

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s.%s\" has no index on column \"%s\"",
					get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel),
					NameStr(TupleDescAttr(RelationGetDescr(rel), column - 1)->attname)),
			 errhint("Create it again; eventstore cannot work without it.")));
	return NULL;				/* keep compiler quiet */
}

/*
 * Is the extension installed in this database?  If so it stays, for DROP
 * EXTENSION waits until the current transaction ends.  For workers, at the
 * start of each transaction.
 */
bool
es_extension_lock(void)
{
	while (OidIsValid(relation_oids[ES_EVENT]) ||
		   OidIsValid(get_extension_oid(ES_EXTENSION, true)))
	{
		Oid			relid = es_relation_oid(ES_EVENT);

		/* Getting the lock processes invalidations: is it still the same? */
		LockRelationOid(relid, AccessShareLock);
		if (relation_oids[ES_EVENT] == relid)
			return true;
		UnlockRelationOid(relid, AccessShareLock);
	}
	return false;
}
