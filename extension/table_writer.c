/*
 * table_writer.c
 *		Appends rows to a table and its indexes, many at a time.
 *
 * What COPY does, without its parser: rows gather in slots, a full set goes
 * through table_multi_insert (one WAL record per page instead of per row) and
 * the executor's index insertion, which knows every kind of index that
 * somebody may have added.  Triggers, constraints and defaults are not looked
 * at; callers write to our own tables and bring every column.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "extension/compat.h"
#include "extension/table_writer.h"

#define ROWS_AT_ONCE 256

struct EsTableWriter
{
	Relation	rel;
	bool		close_rel;		/* did we open it? */
	MemoryContext context;		/* owns this struct, slots and executor state */
	EState	   *estate;
	ResultRelInfo *result_rel;
	CommandId	command;
	int			ncolumns;		/* columns the caller brings */
	Datum	   *values;
	bool	   *isnull;
	TupleTableSlot *slots[ROWS_AT_ONCE];
	int			nallocated;		/* slots made so far */
	int			nfilled;		/* slots that wait to be written */
};

/*
 * Write to a relation that the caller has open and locked RowExclusive.  Rows
 * will have `ncolumns` columns; those somebody added behind them are NULL.
 */
EsTableWriter *
es_table_writer_begin_on(Relation rel, int ncolumns)
{
	int			natts = RelationGetDescr(rel)->natts;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "eventstore table writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsTableWriter *writer = palloc0(sizeof(EsTableWriter));

	if (ncolumns > natts)
		elog(ERROR, "table \"%s\" has %d columns, expected %d",
			 RelationGetRelationName(rel), natts, ncolumns);

	writer->rel = rel;
	writer->context = context;
	writer->ncolumns = ncolumns;
	writer->values = palloc0_array(Datum, natts);
	writer->isnull = palloc_array(bool, natts);
	memset(writer->isnull, true, natts);
	writer->estate = CreateExecutorState();
	writer->result_rel = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->result_rel, rel, 1, NULL, 0);
	ExecOpenIndices(writer->result_rel, false);
	writer->command = GetCurrentCommandId(true);

	MemoryContextSwitchTo(old);
	return writer;
}

/* Write to a table of ours; its lock stays until the transaction ends. */
EsTableWriter *
es_table_writer_begin(Oid relid, int ncolumns)
{
	EsTableWriter *writer = es_table_writer_begin_on(table_open(relid, RowExclusiveLock), ncolumns);

	writer->close_rel = true;
	return writer;
}

static void
flush(EsTableWriter *writer)
{
	EState	   *estate = writer->estate;

	if (writer->nfilled == 0)
		return;

	table_multi_insert(writer->rel, writer->slots, writer->nfilled,
					   writer->command, 0, NULL);

	if (writer->result_rel->ri_NumIndices > 0)
	{
		for (int i = 0; i < writer->nfilled; i++)
		{
			/* Index expressions and predicates look at the scan tuple. */
			GetPerTupleExprContext(estate)->ecxt_scantuple = writer->slots[i];
			es_insert_index_tuples(writer->result_rel, writer->slots[i], estate);
			ResetPerTupleExprContext(estate);
		}
	}

	for (int i = 0; i < writer->nfilled; i++)
		ExecClearTuple(writer->slots[i]);
	writer->nfilled = 0;
	CHECK_FOR_INTERRUPTS();
}

/* Add a row.  Values passed by reference are copied. */
void
es_table_writer_put(EsTableWriter *writer, const Datum *values, const bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(writer->rel);
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	HeapTuple	tuple;

	if (writer->nfilled == writer->nallocated)
		writer->slots[writer->nallocated++] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);

	memcpy(writer->values, values, writer->ncolumns * sizeof(Datum));
	memcpy(writer->isnull, isnull, writer->ncolumns * sizeof(bool));
	tuple = heap_form_tuple(desc, writer->values, writer->isnull);
	ExecStoreHeapTuple(tuple, writer->slots[writer->nfilled++], true);
	MemoryContextSwitchTo(old);

	if (writer->nfilled == ROWS_AT_ONCE)
		flush(writer);
}

/* Write what waits and free everything. */
void
es_table_writer_end(EsTableWriter *writer)
{
	flush(writer);

	for (int i = 0; i < writer->nallocated; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	ExecCloseIndices(writer->result_rel);
	FreeExecutorState(writer->estate);
	if (writer->close_rel)
		table_close(writer->rel, NoLock);
	MemoryContextDelete(writer->context);
}
