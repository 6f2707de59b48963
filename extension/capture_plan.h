/*
 * capture_plan.h
 *		What a capture trigger does, worked out once per session.
 */
#ifndef ES_CAPTURE_PLAN_H
#define ES_CAPTURE_PLAN_H

#include "commands/trigger.h"
#include "utils/rel.h"

#include "extension/capture_column.h"

typedef enum EsCaptureOp
{
	ES_CAPTURE_INSERT,
	ES_CAPTURE_UPDATE,
	ES_CAPTURE_DELETE
} EsCaptureOp;

#define ES_NUM_CAPTURE_OPS (ES_CAPTURE_DELETE + 1)

/* A piece of a template, held against the table. */
typedef struct EsCapturePiece
{
	EsColumn   *column;			/* its value, or */
	bool		is_op;			/* the operation, or */
	const char *text;			/* this */
	int			length;
} EsCapturePiece;

typedef struct EsCaptureTemplate
{
	int			npieces;
	EsCapturePiece *pieces;
	bool		has_column;		/* does the result depend on the row? */
	text	   *fixed[ES_NUM_CAPTURE_OPS];	/* if not: the result */
} EsCaptureTemplate;

/* Members of the default payload, in the order jsonb keeps them. */
typedef enum EsEnvelope
{
	ES_ENVELOPE_NEW,			/* op new table schema */
	ES_ENVELOPE_OLD,			/* op old table schema */
	ES_ENVELOPE_BOTH			/* op new old table schema */
} EsEnvelope;

#define ES_NUM_ENVELOPES (ES_ENVELOPE_BOTH + 1)

typedef struct EsCapturePlan
{
	MemoryContext context;		/* owns all of it */
	Oid			relid;			/* table that the trigger is on */
	Oid			root;			/* the one that events name, see capture_plan.c */
	const char *schema;			/* of root */
	const char *table;
	EsCaptureTemplate type;
	EsCaptureTemplate key;		/* no pieces: no key */
	int			ncolumns;		/* columns of the images, in jsonb's order */
	EsColumn  **columns;
	EsJsonbNames column_names;
	EsJsonbNames envelopes[ES_NUM_ENVELOPES];
	int			nchanged;
	EsColumn  **changed;
	EsColumn   *payload;		/* NULL: the default payload */
	bool		old;			/* show the old row of an UPDATE? */
	AttrNumber	last_attnum;	/* no column behind it is looked at */
} EsCapturePlan;

extern const char *const es_capture_op_names[ES_NUM_CAPTURE_OPS];

extern void es_capture_plan_init(void);
extern EsCapturePlan *es_capture_plan_make(Relation rel, const Trigger *trigger);
extern EsCapturePlan *es_capture_plan_get(Relation rel, const Trigger *trigger);
extern bool es_capture_plan_needs_old(const EsCapturePlan *plan);

#endif							/* ES_CAPTURE_PLAN_H */
