/*
 * notifier.h
 *		Delivers events to notify: subscriptions.
 */
#ifndef ES_NOTIFIER_H
#define ES_NOTIFIER_H

extern void es_notifier_init(void);
extern bool es_notifier_run(void);
extern void es_notifier_poll(void);

#endif							/* ES_NOTIFIER_H */
