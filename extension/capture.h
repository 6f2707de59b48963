/*
 * capture.h
 *		Emitting from triggers.
 */
#ifndef ES_CAPTURE_H
#define ES_CAPTURE_H

extern void es_capture_init(void);

#endif							/* ES_CAPTURE_H */
