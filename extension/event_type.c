/*
 * event_type.c
 *		Event types, and the patterns that select them.
 *
 * A type is 1 to 200 characters of [A-Za-z0-9_.:/-].  A pattern is a type
 * (that one), a type followed by ".*" (whatever lies below it, at any depth,
 * but not itself), or "*" (all).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "extension/event_type.h"
#include "extension/outbox.h"

typedef struct Pattern
{
	const char *text;			/* what a type equals, or begins with */
	int			length;
	bool		is_prefix;
} Pattern;

struct EsTypeFilter
{
	int			npatterns;
	Pattern		patterns[FLEXIBLE_ARRAY_MEMBER];
};

/* Longest part of a bad value that an error message repeats. */
#define SHOWN_LENGTH 64

bool
es_is_type_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		c == '_' || c == '.' || c == ':' || c == '/' || c == '-';
}

static bool
is_type(const char *type, int length)
{
	if (length < 1 || length > ES_MAX_TYPE_LENGTH)
		return false;
	for (int i = 0; i < length; i++)
	{
		if (!es_is_type_char(type[i]))
			return false;
	}
	return true;
}

/* Raise an error unless `type` can be the type of an event. */
void
es_check_type(const char *type, int length)
{
	if (unlikely(!is_type(type, length)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 length == 0 ? errmsg("event type must not be empty") :
				 length > ES_MAX_TYPE_LENGTH ?
				 errmsg("event type \"%.*s...\" is too long",
						pg_mbcliplen(type, length, SHOWN_LENGTH), type) :
				 errmsg("invalid event type \"%.*s\"", length, type),
				 errdetail("A type has 1 to %d characters, each one of A-Z a-z 0-9 _ . : / -",
						   ES_MAX_TYPE_LENGTH)));
}

/*
 * Parse patterns into the current memory context.  Errors: an empty list, a
 * NULL or malformed pattern.
 */
EsTypeFilter *
es_type_filter_make(ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	EsTypeFilter *filter;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("list of event types must not be empty"),
				 errhint("All types are '{*}'.")));

	filter = palloc(offsetof(EsTypeFilter, patterns) + count * sizeof(Pattern));
	filter->npatterns = count;
	for (int i = 0; i < count; i++)
	{
		Pattern    *pattern = &filter->patterns[i];

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("type pattern must not be null")));

		pattern->text = text_to_cstring(DatumGetTextPP(elements[i]));
		pattern->length = strlen(pattern->text);
		pattern->is_prefix = pattern->length > 0 && pattern->text[pattern->length - 1] == '*';
		if (pattern->is_prefix)
			pattern->length--;

		/* What stands before a star is nothing, or a type with a dot behind it. */
		if (pattern->is_prefix && pattern->length == 0)
			continue;
		if (pattern->is_prefix ?
			!(pattern->length > 1 && pattern->text[pattern->length - 1] == '.' &&
			  is_type(pattern->text, pattern->length - 1)) :
			!is_type(pattern->text, pattern->length))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid type pattern \"%.*s\"",
							pg_mbcliplen(pattern->text, strlen(pattern->text), ES_MAX_TYPE_LENGTH),
							pattern->text),
					 errhint("A pattern is a type such as 'order.canceled', 'order.*' for all below it, or '*'.")));
	}
	return filter;
}

/* Does any of the patterns select this type? */
bool
es_type_filter_matches(const EsTypeFilter *filter, const char *type, int length)
{
	for (int i = 0; i < filter->npatterns; i++)
	{
		const Pattern *pattern = &filter->patterns[i];

		if (pattern->is_prefix ? length > pattern->length : length == pattern->length)
		{
			if (memcmp(type, pattern->text, pattern->length) == 0)
				return true;
		}
	}
	return false;
}
