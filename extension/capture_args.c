/*
 * capture_args.c
 *		The arguments of a capture trigger: name=value strings.
 *
 *		type=order.{state}		template; {{ and }} are braces
 *		key=order-{id}			template
 *		columns=id,state		column names, as they are, no folding of case;
 *		changed=state,total		"in quotes" if there is a comma in the name
 *		old=false
 *		payload=body
 *
 * Here is what can be told without the table; capture_plan.c does the rest.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "extension/capture_args.h"
#include "extension/event_type.h"
#include "extension/outbox.h"

static const char *const arg_names[ES_NUM_CAPTURE_ARGS] = {
	[ES_ARG_TYPE] = "type",
	[ES_ARG_KEY] = "key",
	[ES_ARG_COLUMNS] = "columns",
	[ES_ARG_CHANGED] = "changed",
	[ES_ARG_OLD] = "old",
	[ES_ARG_PAYLOAD] = "payload",
};

#define ARG_NAMES_HINT "Arguments are type=, key=, columns=, changed=, old= and payload=."

/* Longest part of a string, in bytes, that an error message repeats. */
#define SHOWN_LENGTH 250

/* What an error message repeats of a string that may be long. */
const char *
es_capture_shown(const char *string)
{
	int			length = strlen(string);
	int			shown = pg_mbcliplen(string, length, SHOWN_LENGTH);

	return shown == length ? string : psprintf("%.*s...", shown, string);
}

/* The candidate that `name` may be a slip for, or NULL. */
const char *
es_capture_closest(const char *name, const char *const *candidates, int count)
{
	const char *closest = NULL;
	int			length = strlen(name);
	int			least = Min(length / 2, 3) + 1;

	/* Beyond that length it is no slip but something else. */
	if (length >= NAMEDATALEN)
		return NULL;

	for (int i = 0; i < count; i++)
	{
		int			distance;

		if (pg_strcasecmp(name, candidates[i]) == 0)
			return candidates[i];
		distance = varstr_levenshtein_less_equal(name, length, candidates[i], strlen(candidates[i]),
												 1, 1, 1, least, true);
		if (distance < least)
		{
			least = distance;
			closest = candidates[i];
		}
	}
	return closest;
}

static void
malformed(const EsCaptureArgs *args, EsCaptureArg which, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid argument \"%s\" of trigger \"%s\"", args->given[which], args->trigger),
			 errdetail_internal("%s", problem),
			 hint ? errhint("%s", hint) : 0));
}

/* Which argument is this?  Its value begins behind the returned name's "=". */
static EsCaptureArg
find_arg(const char *string, const char *trigger)
{
	const char *equals = strchr(string, '=');
	const char *closest;
	char	   *name;

	if (equals == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of trigger \"%s\" is not of the form name=value",
						es_capture_shown(string), trigger),
				 errhint("Write for example 'type=%s'. " ARG_NAMES_HINT, es_capture_shown(string))));

	name = pnstrdup(string, equals - string);
	for (int i = 0; i < ES_NUM_CAPTURE_ARGS; i++)
	{
		if (strcmp(name, arg_names[i]) == 0)
			return i;
	}

	closest = es_capture_closest(name, arg_names, ES_NUM_CAPTURE_ARGS);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown argument \"%s\" of trigger \"%s\"", es_capture_shown(name), trigger),
			 closest ? errhint("Perhaps you meant \"%s=\".", closest) : errhint(ARG_NAMES_HINT)));
	pg_unreachable();
}

static void
add_piece(List **pieces, bool is_placeholder, StringInfo text)
{
	EsTemplatePiece *piece;

	if (text->len == 0)
		return;
	piece = palloc(sizeof(EsTemplatePiece));
	piece->is_placeholder = is_placeholder;
	piece->text = pstrdup(text->data);
	*pieces = lappend(*pieces, piece);
	resetStringInfo(text);
}

/* Split a template into text and placeholders. */
static List *
parse_template(const EsCaptureArgs *args, EsCaptureArg which, const char *template)
{
	List	   *pieces = NIL;
	StringInfoData text;
	const char *c = template;

	initStringInfo(&text);
	while (*c != '\0')
	{
		const char *end;

		if ((*c == '{' || *c == '}') && c[1] == *c)
		{
			appendStringInfoChar(&text, *c);
			c += 2;
			continue;
		}
		if (*c == '}')
			malformed(args, which, "A \"}\" stands there without its \"{\".",
					  "Write }} for a brace.");
		if (*c != '{')
		{
			appendStringInfoChar(&text, *c++);
			continue;
		}

		end = strpbrk(c + 1, "{}");
		if (end == NULL || *end != '}')
			malformed(args, which, "A \"{\" stands there without its \"}\".",
					  "Write {{ for a brace.");
		if (end == c + 1)
			malformed(args, which, "A placeholder is empty.",
					  "Write a column's name between the braces, or table, schema or op.");
		add_piece(&pieces, false, &text);
		appendBinaryStringInfo(&text, c + 1, end - c - 1);
		add_piece(&pieces, true, &text);
		c = end + 1;
	}
	add_piece(&pieces, false, &text);

	if (pieces == NIL)
		malformed(args, which, "It is empty.", "Leave it out for the default.");
	return pieces;
}

/*
 * What a type template says literally must be right; what its placeholders
 * bring is made right when the trigger fires.
 */
static void
check_type_template(const EsCaptureArgs *args)
{
	int			length = 0;
	ListCell   *lc;

	foreach(lc, args->type)
	{
		const EsTemplatePiece *piece = lfirst(lc);

		if (piece->is_placeholder)
			continue;
		length += strlen(piece->text);
		for (const char *c = piece->text; *c != '\0'; c++)
		{
			if (!es_is_type_char(*c))
				malformed(args, ES_ARG_TYPE,
						  "The characters of an event type are A-Z a-z 0-9 _ . : / -", NULL);
		}
	}
	if (length > ES_MAX_TYPE_LENGTH)
		malformed(args, ES_ARG_TYPE,
				  psprintf("An event type has at most %d characters.", ES_MAX_TYPE_LENGTH), NULL);
}

/* Split a list of column names. */
static List *
parse_columns(const EsCaptureArgs *args, EsCaptureArg which, const char *list)
{
	List	   *columns = NIL;
	const char *c = list;

	for (;;)
	{
		StringInfoData name;

		initStringInfo(&name);
		while (*c == ' ')
			c++;
		if (*c == '"')
		{
			for (c++; *c != '"' || c[1] == '"'; c++)
			{
				if (*c == '\0')
					malformed(args, which, "A quotation mark is not closed.", NULL);
				if (*c == '"')
					c++;
				appendStringInfoChar(&name, *c);
			}
			c++;
			while (*c == ' ')
				c++;
			if (*c != ',' && *c != '\0')
				malformed(args, which, "Column names are separated by commas.", NULL);
		}
		else
		{
			while (*c != ',' && *c != '\0')
				appendStringInfoChar(&name, *c++);
			while (name.len > 0 && name.data[name.len - 1] == ' ')
				name.data[--name.len] = '\0';
		}
		if (name.len == 0)
			malformed(args, which, "A column name is empty.", "Leave it out for the default.");
		columns = lappend(columns, name.data);
		if (*c == '\0')
			return columns;
		c++;
	}
}

/* Append a column name to a list such that parse_columns() gets it back. */
void
es_capture_append_column(StringInfo list, bool is_first, const char *column)
{
	if (!is_first)
		appendStringInfoChar(list, ',');
	if (*column != '\0' && strpbrk(column, ",\" ") == NULL)
	{
		appendStringInfoString(list, column);
		return;
	}
	appendStringInfoChar(list, '"');
	for (; *column != '\0'; column++)
	{
		if (*column == '"')
			appendStringInfoChar(list, '"');
		appendStringInfoChar(list, *column);
	}
	appendStringInfoChar(list, '"');
}

/* Parse the arguments of a trigger into the current memory context. */
void
es_capture_args_parse(EsCaptureArgs *args, const char *trigger, int nargs, char **strings)
{
	memset(args, 0, sizeof(*args));
	args->trigger = trigger;
	args->old = true;

	for (int i = 0; i < nargs; i++)
	{
		EsCaptureArg which = find_arg(strings[i], trigger);
		char	   *value = strchr(strings[i], '=') + 1;

		if (args->given[which] != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s=\" of trigger \"%s\" is given twice",
							arg_names[which], trigger)));
		args->given[which] = es_capture_shown(strings[i]);

		switch (which)
		{
			case ES_ARG_TYPE:
				args->type = parse_template(args, which, value);
				check_type_template(args);
				break;
			case ES_ARG_KEY:
				args->key = parse_template(args, which, value);
				break;
			case ES_ARG_COLUMNS:
				args->columns = parse_columns(args, which, value);
				break;
			case ES_ARG_CHANGED:
				args->changed = parse_columns(args, which, value);
				break;
			case ES_ARG_OLD:
				if (!parse_bool(value, &args->old))
					malformed(args, which, "It is neither true nor false.", NULL);
				break;
			case ES_ARG_PAYLOAD:
				if (*value == '\0')
					malformed(args, which, "It names no column.", NULL);
				args->payload = value;
				break;
		}
	}

	if (args->payload != NULL && args->columns != NIL)
		malformed(args, ES_ARG_COLUMNS, "With payload= that column alone is sent.", NULL);
	if (args->payload != NULL && args->given[ES_ARG_OLD] != NULL)
		malformed(args, ES_ARG_OLD, "With payload= that column alone is sent.", NULL);
}
