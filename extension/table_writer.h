/*
 * table_writer.h
 *		Appends rows to a table and its indexes, many at a time.
 */
#ifndef ES_TABLE_WRITER_H
#define ES_TABLE_WRITER_H

#include "utils/relcache.h"

typedef struct EsTableWriter EsTableWriter;

extern EsTableWriter *es_table_writer_begin(Oid relid, int ncolumns);
extern EsTableWriter *es_table_writer_begin_on(Relation rel, int ncolumns);
extern void es_table_writer_put(EsTableWriter *writer, const Datum *values, const bool *isnull);
extern void es_table_writer_end(EsTableWriter *writer);

#endif							/* ES_TABLE_WRITER_H */
