/*
 * jsonb_writer.c
 *		Writes jsonb objects whose member names are known beforehand.
 *
 * pushJsonbValue() collects an object as a tree, sorts it, and converts it; to
 * nest an object that is jsonb already it takes it apart and starts again.  For
 * a captured row, whose names are the same each time, that was more work than
 * all else in the trigger together.  Here the names are sorted and laid out
 * once, and values are written behind them, each once and at its place.
 *
 * The layout is that of utils/jsonb.h, see convertJsonbObject() and
 * convertJsonbScalar() in jsonb_util.c: a header with the count, an entry for
 * each name, an entry for each value, the names, the values.  An entry holds a
 * length, or at every JB_OFFSET_STRIDE-th the offset of its end.  Numerics and
 * nested containers are aligned to 4 bytes from the start of the datum, and
 * their padding counts as theirs.
 */
#include "postgres.h"

#include "extension/jsonb_writer.h"

/* In which order two names stand in an object: the shorter first. */
int
es_jsonb_compare_names(const char *a, const char *b)
{
	size_t		a_length = strlen(a);
	size_t		b_length = strlen(b);

	if (a_length != b_length)
		return a_length < b_length ? -1 : 1;
	return memcmp(a, b, a_length);
}

static JEntry
make_entry(int number, uint32 type, int64 length, int64 end)
{
	if (end > JENTRY_OFFLENMASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event payload is too large"),
				 errdetail("A JSON object has at most %d bytes.", JENTRY_OFFLENMASK),
				 errhint("Leave large columns out with columns=.")));

	if (number % JB_OFFSET_STRIDE == 0)
		return type | (JEntry) end | JENTRY_HAS_OFF;
	return type | (JEntry) length;
}

/* Lay out names, sorted by es_jsonb_compare_names() and distinct. */
void
es_jsonb_prepare_names(EsJsonbNames *names, const char *const *sorted, int count)
{
	int			length = 0;

	for (int i = 0; i < count; i++)
		length += strlen(sorted[i]);

	names->count = count;
	names->entries = palloc(sizeof(JEntry) * (count + 1));
	names->data = palloc(length + 1);
	names->data_length = 0;
	for (int i = 0; i < count; i++)
	{
		Assert(i == 0 || es_jsonb_compare_names(sorted[i - 1], sorted[i]) < 0);
		length = strlen(sorted[i]);
		memcpy(names->data + names->data_length, sorted[i], length);
		names->data_length += length;
		names->entries[i] = make_entry(i, JENTRY_ISSTRING, length, names->data_length);
	}
}

/* Make room for `length` bytes; returns their offset. */
static inline int
reserve(StringInfo buffer, int length)
{
	int			offset = buffer->len;

	enlargeStringInfo(buffer, length);
	buffer->len += length;
	return offset;
}

/* Align to 4 bytes from the start of the datum. */
static inline void
pad(StringInfo buffer)
{
	int			padding = INTALIGN(buffer->len) - buffer->len;
	int			offset = reserve(buffer, padding);

	memset(buffer->data + offset, 0, padding);
}

/* Enter the value that was written from offset `start` on. */
static inline void
enter(StringInfo buffer, EsJsonbObject *object, uint32 type, int start)
{
	int			length = buffer->len - start;
	JEntry		entry;

	Assert(object->next < 2 * object->count);
	object->length += length;
	entry = make_entry(object->next, type, length, object->length);
	memcpy(buffer->data + object->entries + object->next * sizeof(JEntry), &entry, sizeof(JEntry));
	object->next++;
}

/* Begin a datum, whose root is to be one object, in an empty buffer. */
void
es_jsonb_begin(StringInfo buffer)
{
	resetStringInfo(buffer);
	(void) reserve(buffer, VARHDRSZ);
}

/* The finished datum, in the current memory context. */
Jsonb *
es_jsonb_finish(StringInfo buffer)
{
	Jsonb	   *result = palloc(buffer->len);

	memcpy(result, buffer->data, buffer->len);
	SET_VARSIZE(result, buffer->len);
	return result;
}

/* Begin an object: the datum's root, or the next member of another object. */
void
es_jsonb_begin_object(StringInfo buffer, EsJsonbObject *object, const EsJsonbNames *names)
{
	uint32		header = names->count | JB_FOBJECT;
	int			names_size = names->count * sizeof(JEntry);

	object->start = buffer->len;
	pad(buffer);
	appendBinaryStringInfo(buffer, (const char *) &header, sizeof(header));

	object->count = names->count;
	object->next = names->count;
	object->entries = reserve(buffer, 2 * names_size);
	object->length = names->data_length;
	if (names->count > 0)		/* no names may have no memory */
	{
		memcpy(buffer->data + object->entries, names->entries, names_size);
		appendBinaryStringInfo(buffer, names->data, names->data_length);
	}
}

/* End an object; `parent` is the one it is a member of, NULL for the root. */
void
es_jsonb_end_object(StringInfo buffer, EsJsonbObject *parent, const EsJsonbObject *object)
{
	Assert(object->next == 2 * object->count);
	if (parent != NULL)
		enter(buffer, parent, JENTRY_ISCONTAINER, object->start);
}

void
es_jsonb_put_null(StringInfo buffer, EsJsonbObject *object)
{
	enter(buffer, object, JENTRY_ISNULL, buffer->len);
}

void
es_jsonb_put_bool(StringInfo buffer, EsJsonbObject *object, bool value)
{
	enter(buffer, object, value ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE, buffer->len);
}

void
es_jsonb_put_string(StringInfo buffer, EsJsonbObject *object, const char *value, int length)
{
	int			start = reserve(buffer, length);

	memcpy(buffer->data + start, value, length);
	enter(buffer, object, JENTRY_ISSTRING, start);
}

/* Put a numeric, which must be neither NaN nor infinite. */
void
es_jsonb_put_numeric(StringInfo buffer, EsJsonbObject *object, Numeric value)
{
	int			start = buffer->len;

	pad(buffer);
	appendBinaryStringInfo(buffer, (const char *) value, VARSIZE_ANY(value));
	enter(buffer, object, JENTRY_ISNUMERIC, start);
}

/* Put any jsonb value, as it is. */
void
es_jsonb_put_jsonb(StringInfo buffer, EsJsonbObject *object, const Jsonb *value)
{
	int			start = buffer->len;

	if (JB_ROOT_IS_SCALAR(value))
	{
		/* An array of one in the disguise of a scalar; numerics in it are aligned. */
		JEntry		entry = value->root.children[0];
		const char *data = (const char *) &value->root.children[1];

		if (JBE_ISNUMERIC(entry))
			es_jsonb_put_numeric(buffer, object, (Numeric) data);
		else if (JBE_ISSTRING(entry))
			es_jsonb_put_string(buffer, object, data, getJsonbLength(&value->root, 0));
		else
			enter(buffer, object, entry & JENTRY_TYPEMASK, start);
		return;
	}

	/* What stands in a container is relative to its start. */
	pad(buffer);
	appendBinaryStringInfo(buffer, (const char *) &value->root, VARSIZE(value) - VARHDRSZ);
	enter(buffer, object, JENTRY_ISCONTAINER, start);
}
