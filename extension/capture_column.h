/*
 * capture_column.h
 *		A captured table's columns: as JSON, as text, and compared.
 */
#ifndef ES_CAPTURE_COLUMN_H
#define ES_CAPTURE_COLUMN_H

#include "catalog/pg_attribute.h"
#include "fmgr.h"

#include "extension/jsonb_writer.h"

typedef enum EsColumnKind
{
	ES_COLUMN_BOOL,
	ES_COLUMN_INT2,
	ES_COLUMN_INT4,
	ES_COLUMN_INT8,
	ES_COLUMN_NUMERIC,
	ES_COLUMN_FLOAT,			/* a number when its output says so */
	ES_COLUMN_STRING,			/* text and its kin: bytes as they are */
	ES_COLUMN_TIME,				/* date, timestamp, timestamptz */
	ES_COLUMN_JSONB,
	ES_COLUMN_OUTPUT,			/* a JSON string of the output function's */
	ES_COLUMN_TO_JSONB			/* ask to_jsonb() */
} EsColumnKind;

typedef struct EsColumn
{
	AttrNumber	attnum;
	NameData	name;
	Oid			type;			/* of domains, the type below */
	Oid			collation;
	int16		length;
	bool		by_value;
	EsColumnKind kind;
	bool		fixed_output;	/* does no setting change its output? */
	FmgrInfo	output;
	FmgrInfo	to_jsonb;		/* ES_COLUMN_TO_JSONB */
} EsColumn;

extern void es_column_init(EsColumn *column, Form_pg_attribute attribute, MemoryContext context);
extern void es_column_put_json(EsColumn *column, Datum value, bool isnull,
							   StringInfo buffer, EsJsonbObject *object);
extern void es_column_append_text(EsColumn *column, Datum value, StringInfo text);
extern bool es_column_is_distinct(EsColumn *column, Datum a, bool a_isnull, Datum b, bool b_isnull);

#endif							/* ES_CAPTURE_COLUMN_H */
