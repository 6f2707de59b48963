/*
 * listener.c
 *		A LISTEN client that does nothing with what it gets but count it.
 *
 * usage: listener CHANNEL
 *
 * Connects as the environment says (PGHOST ...), prints "listening", and on
 * SIGTERM the number of notifications.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <libpq-fe.h>

static volatile sig_atomic_t stop = 0;

static void
on_signal(int signo)
{
	stop = 1;
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;
	PGresult   *result;
	PGnotify   *notify;
	char		command[200];
	long		count = 0;

	if (argc != 2)
	{
		fprintf(stderr, "usage: listener CHANNEL\n");
		return 2;
	}
	signal(SIGTERM, on_signal);
	conn = PQconnectdb("");
	snprintf(command, sizeof(command), "LISTEN %s", argv[1]);
	result = PQexec(conn, command);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "listener: %s", PQerrorMessage(conn));
		return 1;
	}
	PQclear(result);
	printf("listening\n");
	fflush(stdout);

	while (!stop)
	{
		struct pollfd wait = {.fd = PQsocket(conn), .events = POLLIN};

		if (poll(&wait, 1, 100) <= 0)
			continue;
		if (!PQconsumeInput(conn))
		{
			fprintf(stderr, "listener: %s", PQerrorMessage(conn));
			return 1;
		}
		while ((notify = PQnotifies(conn)) != NULL)
		{
			count++;
			PQfreemem(notify);
		}
	}
	printf("%ld\n", count);
	PQfinish(conn);
	return 0;
}
