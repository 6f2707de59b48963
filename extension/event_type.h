/*
 * event_type.h
 *		Event types, and the patterns that select them.
 */
#ifndef ES_EVENT_TYPE_H
#define ES_EVENT_TYPE_H

#include "utils/array.h"

/* A list of patterns, ready to be matched. */
typedef struct EsTypeFilter EsTypeFilter;

extern bool es_is_type_char(char c);
extern void es_check_type(const char *type, int length);
extern EsTypeFilter *es_type_filter_make(ArrayType *patterns);
extern bool es_type_filter_matches(const EsTypeFilter *filter, const char *type, int length);

#endif							/* ES_EVENT_TYPE_H */
