/*
 * endpoint.c
 *		Where a subscription's events go: scheme:target.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "extension/endpoint.h"

/* Longest part of a bad value that an error message repeats. */
#define SHOWN_LENGTH 60

/*
 * Is there a byte that would garble a log line or a header?  All bytes of a
 * multibyte character are above these, in every server encoding.
 */
bool
es_has_control_character(const char *string)
{
	for (; *string != '\0'; string++)
	{
		if ((unsigned char) *string < ' ' || *string == 0x7f)
			return true;
	}
	return false;
}

/* Raises an error unless `target` is one; `endpoint` is for the message. */
typedef void (*CheckTarget)(const char *target, const char *endpoint);

static void
check_channel(const char *target, const char *endpoint)
{
	int			length = strlen(target);

	/* What LISTEN accepts; NOTIFY would refuse it only at the first event. */
	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("endpoint \"%s\" names no channel", endpoint)));
	if (length >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("channel \"%.*s...\" is too long",
						pg_mbcliplen(target, length, SHOWN_LENGTH), target),
				 errdetail("It has %d bytes, the limit is %d.", length, NAMEDATALEN - 1)));
}

static const struct
{
	const char *scheme;
	EsTransport transport;
	CheckTarget check_target;
}			schemes[] = {
	{"notify", ES_TRANSPORT_NOTIFY, check_channel},
};

/* Schemes that exist, for a hint. */
static char *
known_schemes(void)
{
	char	   *list = pstrdup("");

	for (int i = 0; i < lengthof(schemes); i++)
		list = psprintf("%s%s%s:", list, i == 0 ? "" : ", ", schemes[i].scheme);
	return list;
}

/*
 * Take an endpoint apart; an error says what is wrong with it.  The target is
 * allocated in the current memory context.
 */
EsEndpoint
es_endpoint_parse(const char *endpoint)
{
	const char *colon = strchr(endpoint, ':');
	EsEndpoint	result;

	if (es_has_control_character(endpoint))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("endpoint must not contain control characters")));
	if (colon == NULL || colon == endpoint)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("endpoint \"%.*s\" has no scheme",
						pg_mbcliplen(endpoint, strlen(endpoint), SHOWN_LENGTH), endpoint),
				 errhint("An endpoint is a scheme, a colon and a target, such as 'notify:orders'. Known schemes: %s",
						 known_schemes())));

	for (int i = 0; i < lengthof(schemes); i++)
	{
		if (strlen(schemes[i].scheme) != colon - endpoint ||
			strncmp(schemes[i].scheme, endpoint, colon - endpoint) != 0)
			continue;

		if (strpbrk(endpoint, "{}") != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("endpoint \"%.*s\" contains \"{\" or \"}\"",
							pg_mbcliplen(endpoint, strlen(endpoint), SHOWN_LENGTH), endpoint),
					 errdetail("Braces are reserved for placeholders.")));

		schemes[i].check_target(colon + 1, endpoint);
		result.transport = schemes[i].transport;
		result.target = pstrdup(colon + 1);
		return result;
	}

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown endpoint scheme \"%.*s\"",
					pg_mbcliplen(endpoint, colon - endpoint, SHOWN_LENGTH), endpoint),
			 errhint("Known schemes: %s", known_schemes())));
}
