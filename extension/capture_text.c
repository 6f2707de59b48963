/*
 * capture_text.c
 *		Types and keys of captured events.
 *
 * What rows bring may be anything, and a business transaction must not fail
 * over it: here every result is made to be a valid type, a valid key, or no
 * key.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "extension/capture_text.h"
#include "extension/event_type.h"
#include "extension/outbox.h"

/* Digits, in hexadecimal, of the hash that stands for what a long key lost. */
#define KEY_HASH_LENGTH 32

/*
 * Fill in a template from a row, whose attributes are there up to the plan's
 * last_attnum.  Returns whether a column was NULL; it leaves nothing.
 */
static bool
fill_in(const EsCaptureTemplate *template, EsCaptureOp op, TupleTableSlot *row, StringInfo result)
{
	bool		saw_null = false;

	for (int i = 0; i < template->npieces; i++)
	{
		const EsCapturePiece *piece = &template->pieces[i];

		if (piece->column != NULL)
		{
			int			index = piece->column->attnum - 1;

			if (row->tts_isnull[index])
				saw_null = true;
			else
				es_column_append_text(piece->column, row->tts_values[index], result);
		}
		else if (piece->is_op)
			appendStringInfoString(result, es_capture_op_names[op]);
		else
			appendBinaryStringInfo(result, piece->text, piece->length);
	}
	return saw_null;
}

/* Make anything a type: an underscore for each character that cannot be. */
static text *
normalised_type(const StringInfo string)
{
	text	   *result = palloc(VARHDRSZ + ES_MAX_TYPE_LENGTH);
	char	   *type = VARDATA(result);
	int			length = 0;
	const char *c = string->data;
	const char *end = string->data + string->len;

	while (c < end && length < ES_MAX_TYPE_LENGTH)
	{
		type[length++] = es_is_type_char(*c) ? *c : '_';
		c += IS_HIGHBIT_SET(*c) ? pg_mblen(c) : 1;
	}
	if (length == 0)
		type[length++] = '_';
	SET_VARSIZE(result, VARHDRSZ + length);
	return result;
}

/* The type of an event, in the current memory context or the plan's. */
text *
es_capture_type(const EsCapturePlan *plan, EsCaptureOp op, TupleTableSlot *row)
{
	StringInfoData string;
	text	   *result;

	if (plan->type.fixed[op] != NULL)
		return plan->type.fixed[op];

	initStringInfo(&string);
	(void) fill_in(&plan->type, op, row, &string);
	result = normalised_type(&string);
	pfree(string.data);
	return result;
}

/*
 * Cut a key that is too long; a hash of all of it keeps distinct keys apart.
 * Not md5: it is refused where OpenSSL runs in FIPS mode.
 */
static text *
cut_key(const StringInfo key)
{
	Datum		whole = PointerGetDatum(cstring_to_text_with_len(key->data, key->len));
	bytea	   *hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, whole));
	int			kept = pg_mbcliplen(key->data, key->len, ES_MAX_KEY_LENGTH - 1 - KEY_HASH_LENGTH);
	text	   *result = palloc(VARHDRSZ + kept + 1 + KEY_HASH_LENGTH);
	char	   *c = VARDATA(result);

	memcpy(c, key->data, kept);
	c[kept] = '-';
	(void) hex_encode(VARDATA_ANY(hash), KEY_HASH_LENGTH / 2, c + kept + 1);
	SET_VARSIZE(result, VARHDRSZ + kept + 1 + KEY_HASH_LENGTH);
	return result;
}

/*
 * The key of an event, or NULL: when the template is empty or yields nothing,
 * or when one of its columns is NULL, which is to say that there is nothing
 * whose order would matter.
 */
text *
es_capture_key(const EsCapturePlan *plan, EsCaptureOp op, TupleTableSlot *row)
{
	StringInfoData string;
	text	   *result;

	if (plan->key.npieces == 0 || plan->key.fixed[op] != NULL)
		return plan->key.fixed[op];

	initStringInfo(&string);
	if (fill_in(&plan->key, op, row, &string) || string.len == 0)
		result = NULL;
	else if (string.len > ES_MAX_KEY_LENGTH)
		result = cut_key(&string);
	else
		result = cstring_to_text_with_len(string.data, string.len);
	pfree(string.data);
	return result;
}
