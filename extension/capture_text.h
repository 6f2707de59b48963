/*
 * capture_text.h
 *		Types and keys of captured events.
 */
#ifndef ES_CAPTURE_TEXT_H
#define ES_CAPTURE_TEXT_H

#include "executor/tuptable.h"

#include "extension/capture_plan.h"

extern text *es_capture_type(const EsCapturePlan *plan, EsCaptureOp op, TupleTableSlot *row);
extern text *es_capture_key(const EsCapturePlan *plan, EsCaptureOp op, TupleTableSlot *row);

#endif							/* ES_CAPTURE_TEXT_H */
