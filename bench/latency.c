/*
 * latency.c
 *		How long after a commit does a LISTEN client hear of it?
 *
 * usage: latency SECONDS INTERVAL-MS MODE...
 *
 * Takes samples for so long, with a pause of INTERVAL-MS before each.
 * A mode is "notify" (pg_notify) or "eventstore" (emit, and a subscription to
 * type probe.* with endpoint notify:probe, which must exist).  With several
 * modes, their samples take turns.
 *
 * One process, two connections: one writes, the other listens, and both
 * sockets are watched by one poll(), so that both times are of one clock and
 * one scheduling.  A sample is one transaction, UPDATE and event, in a
 * BEGIN ... that is already open; only COMMIT is timed:
 *
 *		sent		COMMIT goes out
 *		answered	the answer to COMMIT has come
 *		heard		the notification has come
 *
 * For each mode one line: its name, the number of samples, percentiles 50, 90, 99 and the
 * maximum of (heard - sent), then the same of (heard - answered), in
 * microseconds.  The second may be negative: a listener can hear of a commit
 * before its own client does.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

#define MAX_MODES 4
#define MAX_SAMPLES 100000

/* Samples that only warm both sessions up. */
#define WARM_UP 10

/* Give up on a notification after this long. */
#define TIMEOUT_MS 60000

typedef struct Mode
{
	const char *name;
	const char *statement;
	const char *channel;
	double	   *since_sent;
	double	   *since_answered;
	int			count;
} Mode;

static PGconn *writer;
static PGconn *listener;

static double
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void
fail(const char *what, const char *message)
{
	fprintf(stderr, "latency: %s: %s\n", what, message);
	exit(1);
}

static PGconn *
connect_to_server(void)
{
	PGconn	   *conn = PQconnectdb("application_name=latency");

	if (PQstatus(conn) != CONNECTION_OK)
		fail("connection", PQerrorMessage(conn));
	return conn;
}

static void
run(PGconn *conn, const char *command)
{
	PGresult   *result = PQexec(conn, command);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		fail(command, PQerrorMessage(conn));
	PQclear(result);
}

/* Wait until one of the two connections has something to read; read it. */
static void
wait_for_input(double deadline)
{
	struct pollfd wait[2] = {
		{.fd = PQsocket(writer), .events = POLLIN},
		{.fd = PQsocket(listener), .events = POLLIN},
	};

	if (poll(wait, 2, TIMEOUT_MS) < 0 && errno != EINTR)
		fail("poll", strerror(errno));
	if (now_us() > deadline)
		fail("wait", "no notification came");
	if (wait[0].revents && !PQconsumeInput(writer))
		fail("writer", PQerrorMessage(writer));
	if (wait[1].revents && !PQconsumeInput(listener))
		fail("listener", PQerrorMessage(listener));
}

static void
take_sample(Mode *mode, int serial)
{
	char		value[20];
	char		mark[40];
	const char *values[1] = {value};
	PGresult   *result;
	PGnotify   *notify;
	double		sent;
	double		answered = 0;
	double		heard = 0;

	snprintf(value, sizeof(value), "%d", serial);
	snprintf(mark, sizeof(mark), "\"serial\": %d}", serial);

	run(writer, "BEGIN");
	run(writer, "UPDATE account SET balance = balance + 1 WHERE id = 0");
	result = PQexecParams(writer, mode->statement, 1, NULL, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		fail(mode->statement, PQerrorMessage(writer));
	PQclear(result);

	sent = now_us();
	if (!PQsendQuery(writer, "COMMIT"))
		fail("COMMIT", PQerrorMessage(writer));
	while (answered == 0 || heard == 0)
	{
		double		now;

		wait_for_input(sent + TIMEOUT_MS * 1e3);
		now = now_us();
		while (answered == 0 && !PQisBusy(writer))
		{
			result = PQgetResult(writer);
			if (result == NULL)
				answered = now;
			else if (PQresultStatus(result) != PGRES_COMMAND_OK)
				fail("COMMIT", PQerrorMessage(writer));
			PQclear(result);
		}
		while ((notify = PQnotifies(listener)) != NULL)
		{
			if (strcmp(notify->relname, mode->channel) == 0 && strstr(notify->extra, mark) != NULL)
				heard = now;
			PQfreemem(notify);
		}
	}
	mode->since_sent[mode->count] = heard - sent;
	mode->since_answered[mode->count++] = heard - answered;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static void
print_percentiles(double *values, int count)
{
	static const double wanted[] = {0.5, 0.9, 0.99};

	qsort(values, count, sizeof(double), compare);
	for (int i = 0; i < 3; i++)
		printf(" %.0f", values[(int) (wanted[i] * (count - 1) + 0.5)]);
	printf(" %.0f", values[count - 1]);
}

static Mode
make_mode(const char *name)
{
	Mode		mode = {.name = name};

	if (strcmp(name, "eventstore") == 0)
	{
		mode.statement = "SELECT eventstore.emit('probe.taken', jsonb_build_object('serial', $1::int), 'probe-1')";
		mode.channel = "probe";
	}
	else if (strcmp(name, "notify") == 0)
	{
		mode.statement = "SELECT pg_notify('raw_probe', jsonb_build_object('type', 'probe.taken', 'key', 'probe-1', "
						 "'payload', jsonb_build_object('serial', $1::int))::text)";
		mode.channel = "raw_probe";
	}
	else
		fail("unknown mode", name);
	mode.since_sent = malloc(MAX_SAMPLES * sizeof(double));
	mode.since_answered = malloc(MAX_SAMPLES * sizeof(double));
	return mode;
}

int
main(int argc, char **argv)
{
	Mode		modes[MAX_MODES];
	int			nmodes = argc - 3;
	int			interval;
	double		end;

	if (nmodes < 1 || nmodes > MAX_MODES)
	{
		fprintf(stderr, "usage: latency SECONDS INTERVAL-MS MODE...\n");
		return 2;
	}
	end = now_us() + atof(argv[1]) * 1e6;
	interval = atoi(argv[2]);
	for (int i = 0; i < nmodes; i++)
		modes[i] = make_mode(argv[3 + i]);

	writer = connect_to_server();
	listener = connect_to_server();
	run(writer, "INSERT INTO account VALUES (0, 0) ON CONFLICT DO NOTHING");
	for (int i = 0; i < nmodes; i++)
	{
		char		command[100];

		snprintf(command, sizeof(command), "LISTEN %s", modes[i].channel);
		run(listener, command);
	}

	for (int serial = -WARM_UP; serial <= 0 || (serial < MAX_SAMPLES - WARM_UP && now_us() < end); serial++)
	{
		for (int i = 0; i < nmodes; i++)
		{
			struct timespec pause = {interval / 1000, interval % 1000 * 1000000L};

			if (serial == 0)
				modes[i].count = 0;
			nanosleep(&pause, NULL);
			take_sample(&modes[i], serial);
		}
	}

	for (int i = 0; i < nmodes; i++)
	{
		printf("%s %d", modes[i].name, modes[i].count);
		print_percentiles(modes[i].since_sent, modes[i].count);
		print_percentiles(modes[i].since_answered, modes[i].count);
		printf("\n");
	}
	PQfinish(writer);
	PQfinish(listener);
	return 0;
}
