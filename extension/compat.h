/*
 * compat.h
 *		What differs between PostgreSQL 15, 16 and 17.  Each shim names the
 *		change it covers.
 */
#ifndef ES_COMPAT_H
#define ES_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "eventstore needs PostgreSQL 15 or later"
#endif

/* 16 renamed RelFileNode to RelFileLocator. */
#if PG_VERSION_NUM >= 160000
#define es_set_seq_rec_locator(xlrec, rel) ((xlrec)->locator = (rel)->rd_locator)
#else
#define es_set_seq_rec_locator(xlrec, rel) ((xlrec)->node = (rel)->rd_node)
#endif

/* 17 put the parts of a virtual transaction id into a struct. */
#if PG_VERSION_NUM >= 170000
#define es_my_local_xid() (MyProc->vxid.lxid)
#else
#define es_my_local_xid() (MyProc->lxid)
#endif

/* 17 numbers processes from 0, not from 1, and renamed the invalid number. */
#if PG_VERSION_NUM < 170000
#define INVALID_PROC_NUMBER InvalidBackendId
#endif

/* 16 added onlySummarizing to ExecInsertIndexTuples. */
#if PG_VERSION_NUM >= 160000
#define es_insert_index_tuples(rri, slot, estate) \
	((void) ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false))
#else
#define es_insert_index_tuples(rri, slot, estate) \
	((void) ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL))
#endif

/* 17 renamed ShmemVariableCache to TransamVariables. */
#if PG_VERSION_NUM >= 170000
#define es_oldest_clog_xid() (TransamVariables->oldestClogXid)
#else
#define es_oldest_clog_xid() (ShmemVariableCache->oldestClogXid)
#endif

/* 16 added "copy" to tuplesort_getdatum; of no matter for a type passed by value. */
#if PG_VERSION_NUM >= 160000
#define es_tuplesort_getdatum(state, value, isnull) \
	tuplesort_getdatum(state, true, false, value, isnull, NULL)
#else
#define es_tuplesort_getdatum(state, value, isnull) \
	tuplesort_getdatum(state, true, value, isnull, NULL)
#endif

/* 17 lets extensions name their wait events; before, all are "Extension". */
#if PG_VERSION_NUM >= 170000
#define es_wait_event(name) (WaitEventExtensionNew(name))
#else
#define es_wait_event(name) (PG_WAIT_EXTENSION)
#endif

/* 17 lets the caller provide the JSON lexer's memory. */
#if PG_VERSION_NUM >= 170000
#define es_make_json_lexer(text) \
	makeJsonLexContextCstringLen(NULL, text, strlen(text), GetDatabaseEncoding(), false)
#else
#define es_make_json_lexer(text) \
	makeJsonLexContextCstringLen(text, strlen(text), GetDatabaseEncoding(), false)
#endif

/* 16 brought these; the latest minor releases of 15 have them too. */
#ifndef palloc_array
#define palloc_array(type, count) ((type *) palloc(mul_size(sizeof(type), count)))
#define palloc0_array(type, count) ((type *) palloc0(mul_size(sizeof(type), count)))
#endif

#endif							/* ES_COMPAT_H */
