/*
 * settings.h
 *		All settings (eventstore.*), sorted by name.
 */
#ifndef ES_SETTINGS_H
#define ES_SETTINGS_H

#include "utils/jsonb.h"

extern bool es_debug_fail_notify;
extern int	es_partition_size;
extern int	es_poll_interval;

extern void es_settings_init(void);
extern Jsonb *es_context_headers(void);

#endif							/* ES_SETTINGS_H */
