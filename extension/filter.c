/*
 * filter.c
 *		Which payloads a subscription wants: a jsonpath.
 *
 * The first item that the path finds decides, so that a predicate
 * ($.amount > 100) and a filter expression ($ ? (@.amount > 100)) both do what
 * their author means.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "extension/filter.h"

/*
 * Refuse a filter that could never work: one with variables, for which nobody
 * gives values.  In the text form, outside of a string only a variable is a
 * dollar sign with a quote behind it.
 */
void
es_filter_check(JsonPath *filter)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(filter)));
	bool		in_string = false;

	for (const char *c = text; *c != '\0'; c++)
	{
		if (in_string && *c == '\\' && c[1] != '\0')
			c++;
		else if (*c == '"')
			in_string = !in_string;
		else if (!in_string && c[0] == '$' && c[1] == '"')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("filter must not contain variables"),
					 errdetail("The filter is %s", text)));
	}
	pfree(text);
}

/* Errors that tell of the filter and the payload, not of the server. */
static bool
is_mismatch(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_FEATURE_NOT_SUPPORTED ||
		sqlerrcode == ERRCODE_INVALID_REGULAR_EXPRESSION ||
		sqlerrcode == ERRCODE_UNDEFINED_OBJECT ||
		sqlerrcode == ERRCODE_STATEMENT_TOO_COMPLEX;
}

/*
 * Does the filter want an event with this payload?  Not if it finds nothing,
 * false or null.  Leaves garbage in the current memory context.
 *
 * A few errors come out of a path even when it is asked to be silent (a bad
 * datetime template, too deep a nesting).  They mean no as well: they would
 * otherwise stop the delivery of everybody's events, again and again.  They
 * come from computing with values at hand, which holds no lock, buffer or
 * other resource, so that no subtransaction is needed to go on.
 */
bool
es_filter_matches(JsonPath *filter, Jsonb *payload)
{
	LOCAL_FCINFO(fcinfo, 4);
	MemoryContext context = CurrentMemoryContext;
	Datum volatile found = (Datum) 0;
	bool volatile wanted = false;

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(payload);
	fcinfo->args[1].value = PointerGetDatum(filter);
	fcinfo->args[2].value = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	fcinfo->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;

	PG_TRY();
	{
		found = jsonb_path_query_first_tz(fcinfo);
		wanted = !fcinfo->isnull;
	}
	PG_CATCH();
	{
		if (!is_mismatch(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		wanted = false;
	}
	PG_END_TRY();

	if (wanted)
	{
		Jsonb	   *item = DatumGetJsonbP(found);
		JsonbValue	value;

		if (JsonbExtractScalar(&item->root, &value))
			wanted = !(value.type == jbvNull ||
					   (value.type == jbvBool && !value.val.boolean));
	}
	return wanted;
}
