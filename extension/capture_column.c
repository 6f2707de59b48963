/*
 * capture_column.c
 *		A captured table's columns: as JSON, as text, and compared.
 *
 * As JSON a column is what to_jsonb() of the row makes of it.  What is common
 * is done here, without looking up the type for each value; for arrays, rows
 * and types with a cast to json we ask to_jsonb() itself.
 *
 * As text, which goes into keys and types, a value is the same in every
 * session, whatever DateStyle, TimeZone or bytea_output are there: a key that
 * followed them would be two keys for one thing.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "extension/capture_column.h"

/* Mirrors jsonb_categorize_type() in jsonb.c. */
static EsColumnKind
kind_of_type(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return ES_COLUMN_BOOL;
		case INT2OID:
			return ES_COLUMN_INT2;
		case INT4OID:
			return ES_COLUMN_INT4;
		case INT8OID:
			return ES_COLUMN_INT8;
		case NUMERICOID:
			return ES_COLUMN_NUMERIC;
		case FLOAT4OID:
		case FLOAT8OID:
			return ES_COLUMN_FLOAT;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return ES_COLUMN_STRING;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return ES_COLUMN_TIME;
		case JSONBOID:
			return ES_COLUMN_JSONB;
		case JSONOID:
			return ES_COLUMN_TO_JSONB;
		default:
			break;
	}

	if (OidIsValid(get_element_type(type)) || type_is_rowtype(type) ||
		type == ANYARRAYOID || type == RECORDARRAYOID)
		return ES_COLUMN_TO_JSONB;

	if (type >= FirstNormalObjectId)
	{
		Oid			function;

		if (find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) ==
			COERCION_PATH_FUNC)
			return ES_COLUMN_TO_JSONB;
	}
	return ES_COLUMN_OUTPUT;
}

/* Is the output of this type the same under all settings? */
static bool
has_fixed_output(Oid type)
{
	switch (type)
	{
		case BITOID:
		case CHAROID:
		case CIDROID:
		case INETOID:
		case JSONBOID:
		case JSONOID:
		case MACADDR8OID:
		case MACADDROID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case PG_LSNOID:
		case UUIDOID:
		case VARBITOID:
		case XID8OID:
			return true;
		default:
			return type_is_enum(type);
	}
}

/* Prepare a column.  What it needs lives in `context`, the current one. */
void
es_column_init(EsColumn *column, Form_pg_attribute attribute, MemoryContext context)
{
	Oid			output;
	bool		is_varlena;

	Assert(CurrentMemoryContext == context);

	column->attnum = attribute->attnum;
	column->name = attribute->attname;
	column->type = getBaseType(attribute->atttypid);
	column->collation = attribute->attcollation;
	column->length = attribute->attlen;
	column->by_value = attribute->attbyval;
	column->kind = kind_of_type(column->type);
	column->fixed_output = has_fixed_output(column->type);

	getTypeOutputInfo(column->type, &output, &is_varlena);
	fmgr_info_cxt(output, &column->output, context);

	if (column->kind == ES_COLUMN_TO_JSONB)
	{
		/* to_jsonb(anyelement) learns its argument's type from the call. */
		Const	   *argument = makeNullConst(column->type, -1, InvalidOid);
		FuncExpr   *call = makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument),
										InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);

		fmgr_info_cxt(F_TO_JSONB, &column->to_jsonb, context);
		fmgr_info_set_expr((Node *) call, &column->to_jsonb);
	}
}

static void
put_cstring(const char *string, StringInfo buffer, EsJsonbObject *object)
{
	es_jsonb_put_string(buffer, object, string, strlen(string));
}

static void
put_text(const text *string, StringInfo buffer, EsJsonbObject *object)
{
	es_jsonb_put_string(buffer, object, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

static void
put_integer(int64 number, StringInfo buffer, EsJsonbObject *object)
{
	es_jsonb_put_numeric(buffer, object, int64_to_numeric(number));
}

static void
put_numeric(EsColumn *column, Datum value, StringInfo buffer, EsJsonbObject *object)
{
	Numeric		number = DatumGetNumeric(value);

	if (numeric_is_nan(number) || numeric_is_inf(number))
		put_cstring(OutputFunctionCall(&column->output, value), buffer, object);
	else
		es_jsonb_put_numeric(buffer, object, number);
}

static void
put_float(EsColumn *column, Datum value, StringInfo buffer, EsJsonbObject *object)
{
	char	   *string = OutputFunctionCall(&column->output, value);
	Datum		number;

	/* NaN, Infinity and -Infinity are the ones with an n. */
	if (strpbrk(string, "Nn") != NULL)
	{
		put_cstring(string, buffer, object);
		return;
	}
	number = DirectFunctionCall3(numeric_in, CStringGetDatum(string),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	es_jsonb_put_numeric(buffer, object, DatumGetNumeric(number));
}

/* Put a value as the next member of a JSON object. */
void
es_column_put_json(EsColumn *column, Datum value, bool isnull,
				   StringInfo buffer, EsJsonbObject *object)
{
	char		time[MAXDATELEN + 1];

	if (isnull)
	{
		es_jsonb_put_null(buffer, object);
		return;
	}

	switch (column->kind)
	{
		case ES_COLUMN_BOOL:
			es_jsonb_put_bool(buffer, object, DatumGetBool(value));
			break;
		case ES_COLUMN_INT2:
			put_integer(DatumGetInt16(value), buffer, object);
			break;
		case ES_COLUMN_INT4:
			put_integer(DatumGetInt32(value), buffer, object);
			break;
		case ES_COLUMN_INT8:
			put_integer(DatumGetInt64(value), buffer, object);
			break;
		case ES_COLUMN_NUMERIC:
			put_numeric(column, value, buffer, object);
			break;
		case ES_COLUMN_FLOAT:
			put_float(column, value, buffer, object);
			break;
		case ES_COLUMN_STRING:
			put_text(DatumGetTextPP(value), buffer, object);
			break;
		case ES_COLUMN_TIME:
			put_cstring(JsonEncodeDateTime(time, value, column->type, NULL), buffer, object);
			break;
		case ES_COLUMN_JSONB:
			es_jsonb_put_jsonb(buffer, object, DatumGetJsonbP(value));
			break;
		case ES_COLUMN_OUTPUT:
			put_cstring(OutputFunctionCall(&column->output, value), buffer, object);
			break;
		case ES_COLUMN_TO_JSONB:
			value = FunctionCall1(&column->to_jsonb, value);
			es_jsonb_put_jsonb(buffer, object, DatumGetJsonbP(value));
			break;
	}
}

/*
 * Call the output function with the settings that it may look at as they are
 * by default.
 */
static char *
output_with_fixed_settings(EsColumn *column, Datum value)
{
	static const char *const settings[][2] = {
		{"bytea_output", "hex"},
		{"datestyle", "ISO, YMD"},
		{"extra_float_digits", "1"},
		{"intervalstyle", "postgres"},
		{"lc_monetary", "C"},
		{"search_path", "pg_catalog"},
		{"timezone", "UTC"},
		{"xmloption", "content"},
	};
	int			level = NewGUCNestLevel();
	char	   *result;

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	result = OutputFunctionCall(&column->output, value);
	AtEOXact_GUC(true, level);
	return result;
}

static void
append_integer(int64 number, StringInfo text)
{
	char		digits[MAXINT8LEN + 1];

	appendBinaryStringInfo(text, digits, pg_lltoa(number, digits));
}

static void
append_string(struct varlena *string, StringInfo text)
{
	appendBinaryStringInfo(text, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

/* Append a value, not NULL, in a form that does not depend on the session. */
void
es_column_append_text(EsColumn *column, Datum value, StringInfo text)
{
	char		time[MAXDATELEN + 1];
	int			utc = 0;

	switch (column->kind)
	{
		case ES_COLUMN_BOOL:
			appendStringInfoString(text, DatumGetBool(value) ? "true" : "false");
			break;
		case ES_COLUMN_INT2:
			append_integer(DatumGetInt16(value), text);
			break;
		case ES_COLUMN_INT4:
			append_integer(DatumGetInt32(value), text);
			break;
		case ES_COLUMN_INT8:
			append_integer(DatumGetInt64(value), text);
			break;
		case ES_COLUMN_STRING:
			append_string(PG_DETOAST_DATUM_PACKED(value), text);
			break;
		case ES_COLUMN_TIME:
			appendStringInfoString(text, JsonEncodeDateTime(time, value, column->type, &utc));
			break;
		case ES_COLUMN_NUMERIC:
		case ES_COLUMN_FLOAT:
		case ES_COLUMN_JSONB:
		case ES_COLUMN_OUTPUT:
		case ES_COLUMN_TO_JSONB:
			if (column->fixed_output)
				appendStringInfoString(text, OutputFunctionCall(&column->output, value));
			else
				appendStringInfoString(text, output_with_fixed_settings(column, value));
			break;
	}
}

/* Do two values have the same bytes?  Toasted ones are fetched only if need be. */
static bool
is_same_image(const EsColumn *column, Datum a, Datum b)
{
	if (column->length == -1)
	{
		struct varlena *x = (struct varlena *) DatumGetPointer(a);
		struct varlena *y = (struct varlena *) DatumGetPointer(b);

		/* An UPDATE that leaves a toasted column alone keeps the pointer. */
		if (VARATT_IS_EXTERNAL_ONDISK(x) && VARATT_IS_EXTERNAL_ONDISK(y) &&
			memcmp(x, y, VARSIZE_EXTERNAL(x)) == 0)
			return true;
	}
	return datum_image_eq(a, b, column->by_value, column->length);
}

/* IS DISTINCT FROM; for a type without equality, different bytes. */
bool
es_column_is_distinct(EsColumn *column, Datum a, bool a_isnull, Datum b, bool b_isnull)
{
	TypeCacheEntry *type;

	if (a_isnull || b_isnull)
		return a_isnull != b_isnull;
	if (is_same_image(column, a, b))
		return false;

	type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		return true;
	return !DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, column->collation, a, b));
}
