/*
 * endpoint.h
 *		Where a subscription's events go: scheme:target.
 */
#ifndef ES_ENDPOINT_H
#define ES_ENDPOINT_H

/* The code that delivers, one per scheme. */
typedef enum EsTransport
{
	ES_TRANSPORT_NOTIFY			/* notify:<channel> */
} EsTransport;

typedef struct EsEndpoint
{
	EsTransport transport;
	char	   *target;			/* notify: the channel */
} EsEndpoint;

extern bool es_has_control_character(const char *string);
extern EsEndpoint es_endpoint_parse(const char *endpoint);

#endif							/* ES_ENDPOINT_H */
