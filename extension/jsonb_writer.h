/*
 * jsonb_writer.h
 *		Writes jsonb objects whose member names are known beforehand.
 */
#ifndef ES_JSONB_WRITER_H
#define ES_JSONB_WRITER_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

/* The names of an object's members, ready to be copied into place. */
typedef struct EsJsonbNames
{
	int			count;
	JEntry	   *entries;
	char	   *data;
	int			data_length;
} EsJsonbNames;

/* An object being written. */
typedef struct EsJsonbObject
{
	int			count;
	int			next;			/* number of the next entry; names come first */
	int			entries;		/* offset of the entries in the buffer */
	int64		length;			/* of names and values so far */
	int			start;			/* where its own padding begins */
} EsJsonbObject;

extern int	es_jsonb_compare_names(const char *a, const char *b);
extern void es_jsonb_prepare_names(EsJsonbNames *names, const char *const *sorted, int count);

extern void es_jsonb_begin(StringInfo buffer);
extern Jsonb *es_jsonb_finish(StringInfo buffer);
extern void es_jsonb_begin_object(StringInfo buffer, EsJsonbObject *object,
								  const EsJsonbNames *names);
extern void es_jsonb_end_object(StringInfo buffer, EsJsonbObject *parent,
								const EsJsonbObject *object);
extern void es_jsonb_put_null(StringInfo buffer, EsJsonbObject *object);
extern void es_jsonb_put_bool(StringInfo buffer, EsJsonbObject *object, bool value);
extern void es_jsonb_put_string(StringInfo buffer, EsJsonbObject *object,
								const char *value, int length);
extern void es_jsonb_put_numeric(StringInfo buffer, EsJsonbObject *object, Numeric value);
extern void es_jsonb_put_jsonb(StringInfo buffer, EsJsonbObject *object, const Jsonb *value);

#endif							/* ES_JSONB_WRITER_H */
