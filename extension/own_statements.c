/*
 * own_statements.c
 *		SQL statements that the extension runs for itself.
 *
 * They run through SPI as the extension's owner, who owns the tables, so that
 * they work for whoever emits or subscribes; in a security-restricted
 * operation, so that a trigger or an index expression somebody put on our
 * tables gains nothing by it; and with the settings that could change what
 * they mean as we expect them.  Their locks belong to the subtransaction and
 * not to a cursor, for which see es_lock_for_transaction().
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "extension/catalog.h"
#include "extension/own_statements.h"

static Oid
extension_owner(void)
{
	Oid			relid = es_relation_oid(ES_EVENT);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Begin; after an error the end of the (sub)transaction puts everything back. */
EsStatements
es_statements_begin(void)
{
	static const char *const settings[][2] = {
		{"default_table_access_method", "heap"},
		{"default_tablespace", ""},
		{"search_path", "pg_catalog, pg_temp"},
	};
	EsStatements statements;
	Oid			owner = extension_owner();

	GetUserIdAndSecContext(&statements.caller, &statements.caller_context);
	SetUserIdAndSecContext(owner,
						   statements.caller_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);

	statements.guc_level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);

	statements.resource_owner = CurrentResourceOwner;
	CurrentResourceOwner = CurTransactionResourceOwner;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return statements;
}

void
es_statements_end(const EsStatements *statements)
{
	SPI_finish();
	CurrentResourceOwner = statements->resource_owner;
	AtEOXact_GUC(false, statements->guc_level);
	SetUserIdAndSecContext(statements->caller, statements->caller_context);
}
