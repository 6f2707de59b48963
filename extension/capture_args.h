/*
 * capture_args.h
 *		The arguments of a capture trigger: name=value strings.
 */
#ifndef ES_CAPTURE_ARGS_H
#define ES_CAPTURE_ARGS_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

typedef enum EsCaptureArg
{
	ES_ARG_TYPE,
	ES_ARG_KEY,
	ES_ARG_COLUMNS,
	ES_ARG_CHANGED,
	ES_ARG_OLD,
	ES_ARG_PAYLOAD
} EsCaptureArg;

#define ES_NUM_CAPTURE_ARGS (ES_ARG_PAYLOAD + 1)

/* A piece of a template: text that stands for itself, or {name}. */
typedef struct EsTemplatePiece
{
	bool		is_placeholder;
	char	   *text;
} EsTemplatePiece;

/* Arguments, parsed but not yet held against a table. */
typedef struct EsCaptureArgs
{
	const char *trigger;		/* its name, for messages */
	const char *given[ES_NUM_CAPTURE_ARGS]; /* each as messages show it, NULL: not given */
	List	   *type;			/* of EsTemplatePiece */
	List	   *key;
	List	   *columns;		/* of char * */
	List	   *changed;
	bool		old;
	char	   *payload;
} EsCaptureArgs;

extern void es_capture_args_parse(EsCaptureArgs *args, const char *trigger,
								  int nargs, char **strings);
extern void es_capture_append_column(StringInfo list, bool is_first, const char *column);
extern const char *es_capture_shown(const char *string);
extern const char *es_capture_closest(const char *name, const char *const *candidates, int count);

#endif							/* ES_CAPTURE_ARGS_H */
