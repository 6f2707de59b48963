/*
 * filter.h
 *		Which payloads a subscription wants: a jsonpath.
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "utils/jsonb.h"
#include "utils/jsonpath.h"

extern void es_filter_check(JsonPath *filter);
extern bool es_filter_matches(JsonPath *filter, Jsonb *payload);

#endif							/* ES_FILTER_H */
