/*
 * partition.c
 *		The partitions (leaves) of eventstore.event.
 *
 * The dispatcher makes leaves long before they are needed, so that emitting
 * never waits for one.  Where no dispatcher runs, the emit that needs a leaf
 * makes it, in its own transaction: others that need the same leaf wait for
 * that transaction, all others do not notice.
 *
 * A leaf is made by CREATE TABLE and ATTACH PARTITION, which takes no more
 * than ShareUpdateExclusive on the parent.  CREATE TABLE ... PARTITION OF
 * would take AccessExclusive and stall behind, and in front of, every open
 * transaction that touched the parent.  There is no DEFAULT partition: it
 * would be scanned, under a strong lock, by each ATTACH.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "executor/spi.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/own_statements.h"
#include "extension/partition.h"
#include "extension/settings.h"

/* Bound number `i` of the parent, in the order of ids. */
static int64
bound_value(PartitionBoundInfo bounds, int i)
{
	switch (bounds->kind[i][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return PG_INT64_MIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return PG_INT64_MAX;
		case PARTITION_RANGE_DATUM_VALUE:
			break;
	}
	return DatumGetInt64(bounds->datums[i][0]);
}

/*
 * All leaves in the order of ids, in the caller's memory context.  The list is
 * that of this session's relcache; nothing holds it still but the locks the
 * caller takes on the leaves.
 */
EsPartition *
es_partition_list(int *count)
{
	Relation	parent = table_open(es_relation_oid(ES_EVENT), AccessShareLock);
	PartitionDesc desc = RelationGetPartitionDesc(parent, false);
	PartitionBoundInfo bounds = desc->boundinfo;
	EsPartition *list = palloc0_array(EsPartition, desc->nparts + 1);
	int			n = 0;

	/* indexes[i] is the leaf between bounds i - 1 and i, or -1 for a hole. */
	for (int i = 1; bounds != NULL && i < bounds->ndatums; i++)
	{
		int			index = bounds->indexes[i];

		if (index < 0)
			continue;
		list[n].relid = desc->oids[index];
		list[n].lower = bound_value(bounds, i - 1);
		list[n].upper = bound_value(bounds, i);
		n++;
	}
	table_close(parent, AccessShareLock);

	*count = n;
	return list;
}

/*
 * Find the leaf for an id, and fill in the bounds of the leaf, or of the hole
 * where it is missing.
 */
bool
es_partition_find(int64 id, EsPartition *found)
{
	Relation	parent = table_open(es_relation_oid(ES_EVENT), AccessShareLock);
	PartitionKey key = RelationGetPartitionKey(parent);
	PartitionDesc desc = RelationGetPartitionDesc(parent, false);
	PartitionBoundInfo bounds = desc->boundinfo;
	int			at = -1;		/* last bound <= id */

	found->relid = InvalidOid;
	found->lower = 0;
	found->upper = PG_INT64_MAX;

	if (bounds != NULL)
	{
		Datum		value = Int64GetDatum(id);
		bool		equal;

		at = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
										   bounds, 1, &value, &equal);
		if (bounds->indexes[at + 1] >= 0)
			found->relid = desc->oids[bounds->indexes[at + 1]];
		if (at >= 0)
			found->lower = bound_value(bounds, at);
		if (at + 1 < bounds->ndatums)
			found->upper = bound_value(bounds, at + 1);
	}
	table_close(parent, AccessShareLock);

	return OidIsValid(found->relid);
}

/* A name for a leaf.  One that was detached and kept still has its own. */
static char *
leaf_name(int64 lower)
{
	Oid			schema = get_namespace_oid(ES_INTERNAL_SCHEMA, false);
	char	   *name = psprintf("event_" INT64_FORMAT, lower);

	for (int i = 2;; i++)
	{
		Oid			relid = get_relname_relid(name, schema);

		if (!OidIsValid(relid))
			return name;
		if (get_rel_relispartition(relid))
			elog(ERROR, "partition \"%s\" exists, but is not found by its bounds", name);
		name = psprintf("event_" INT64_FORMAT "_%d", lower, i);
	}
}

/*
 * Make the leaf for an id, unless somebody else has meanwhile.  Holds
 * ShareUpdateExclusive on the parent until the transaction ends.
 */
void
es_partition_create(int64 id)
{
	Oid			parent = es_relation_oid(ES_EVENT);
	EsPartition hole;
	char	   *name;
	EsStatements statements;

	es_lock_for_transaction(parent, ShareUpdateExclusiveLock);
	if (es_partition_find(id, &hole))
		return;

	/*
	 * Bounds are multiples of the partition size, unless neighbours made with
	 * another size reach in.
	 */
	hole.lower = Max(hole.lower, id - id % es_partition_size);
	hole.upper = Min(hole.upper, id - id % es_partition_size + es_partition_size);
	name = leaf_name(hole.lower);

	statements = es_statements_begin();

	/*
	 * Event triggers that audit or forbid DDL mean that of users.  In this role
	 * they do not fire, unless they are ENABLE REPLICA or ALWAYS.
	 */
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	SPI_execute(psprintf("CREATE TABLE " ES_INTERNAL_SCHEMA ".%s ("
						 "LIKE " ES_SCHEMA ".event, PRIMARY KEY (id))", name),
				false, 0);
	SPI_execute(psprintf("CREATE INDEX ON " ES_INTERNAL_SCHEMA ".%s (xid) WHERE run IS NOT NULL", name),
				false, 0);
	SPI_execute(psprintf("ALTER TABLE " ES_SCHEMA ".event ATTACH PARTITION " ES_INTERNAL_SCHEMA ".%s "
						 "FOR VALUES FROM (" INT64_FORMAT ") TO (" INT64_FORMAT ")",
						 name, hole.lower, hole.upper),
				false, 0);

	es_statements_end(&statements);
}
