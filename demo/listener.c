/*
 * listener.c
 *		A LISTEN client that misses no event and handles none twice: an example
 *		to copy into an application.
 *
 *	SELECT eventstore.subscribe('orders', 'notify:orders', types => '{order.*}');
 *	psql -f listener.sql
 *	listener -c orders -t '{order.*}' 'dbname=shop'
 *
 * NOTIFY alone reaches only those who listen at that moment.  What came while
 * this program was away, or the server, stands in the feed, where every event
 * has a position: 1, 2, 3 ...  So we keep the position up to which we have
 * handled everything, and
 *
 * 1. LISTEN first, so that nothing can fall between steps 2 and 3;
 * 2. read the feed from our position up to its head;
 * 3. then take notifications.  Each tells its event's position and the one that
 *	  was notified before it, "previous":
 *		position <= ours	an old one, skip it;
 *		previous <= ours	nothing was missed, handle it;
 *		previous >  ours	something was: as in 2.
 *	  As in 2 also if the event was too long for a notification ("truncated"),
 *	  and after half a minute of silence, should a notification have got lost.
 *
 * The position is stored in the transaction that handles the events, so that
 * both happen or neither does, whenever we are killed.  That makes recovery
 * easy: whatever fails, drop the connection and begin again at 1.
 *
 * If the effects are not in this database, store the position where they are.
 *
 * Every role that may connect may NOTIFY.  Where you do not trust them all, take
 * a notification as no more than a sign that there is something to read.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

/* Events or notifications that are handled in one transaction. */
#define PAGE_SIZE 500

/* Milliseconds until we try to connect again, doubled each time. */
#define MIN_PAUSE 100
#define MAX_PAUSE 1000

/* An event as handle() gets it; the strings are the server's text. */
typedef struct Event
{
	int64_t		position;
	const char *id;
	const char *type;
	const char *key;			/* NULL if it has none */
	const char *payload;		/* JSON */
	double		emitted_at;		/* seconds since 1970 */
	double		received_at;
	bool		notified;		/* by a notification, or else read */
} Event;

/* The columns that events are made of, in this order. */
#define EVENT_COLUMNS \
	"\"position\", id, type, key, payload, extract(epoch FROM emitted_at)"

static const char *conninfo = "";
static const char *channel = "orders";
static const char *types = "{*}";
static const char *name = "listener";
static int	silence = 30000;	/* milliseconds */
static bool verbose = false;

static PGconn *conn;

static void
complain(const char *format, ...)
{
	va_list		args;

	va_start(args, format);
	fprintf(stderr, "listener: ");
	vfprintf(stderr, format, args);
	va_end(args);
}

/* The time of day, in seconds. */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/*
 * Run a statement; NULL if it failed, which is reported here.  Most failures
 * pass: the server restarts, a transaction is chosen as a deadlock's victim.
 * Some do not, and we give up: a table or function is missing, or the feed
 * has no past that fits our position (ES001, ES002).
 */
static PGresult *
run(const char *sql, int nparams, const char *const *params)
{
	PGresult   *result = PQexecParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(result);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
		return result;

	complain("%s", PQerrorMessage(conn));
	if (sqlstate != NULL && (strncmp(sqlstate, "ES", 2) == 0 || strncmp(sqlstate, "42", 2) == 0))
		exit(1);
	PQclear(result);
	return NULL;
}

/* Run a statement of whose result nothing is needed. */
static bool
execute(const char *sql, int nparams, const char *const *params)
{
	PGresult   *result = run(sql, nparams, params);

	PQclear(result);
	return result != NULL;
}

/* Run a statement that returns one number. */
static bool
fetch_number(const char *sql, int nparams, const char *const *params, int64_t *number)
{
	PGresult   *result = run(sql, nparams, params);

	if (result == NULL)
		return false;
	*number = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
	PQclear(result);
	return true;
}

/*
 * Begin a transaction that handles events, and say what our position is.  It
 * is locked: should another listener of our name run (one that was killed, but
 * whose last transaction still commits), then we take turns.
 */
static bool
begin(int64_t *position)
{
	return execute("BEGIN", 0, NULL) &&
		fetch_number("SELECT \"position\" FROM listener WHERE name = $1 FOR UPDATE",
					 1, &name, position);
}

/* Store our new position, and commit it with what handle() did. */
static bool
commit(int64_t position)
{
	char		number[32];
	const char *params[] = {name, number};

	snprintf(number, sizeof(number), "%" PRId64, position);
	return execute("UPDATE listener SET \"position\" = $2 WHERE name = $1", 2, params) &&
		execute("COMMIT", 0, NULL);
}

/*
 * Do what is to be done with an event: here goes your own code.  It runs in the
 * transaction that stores the position: return false to have it rolled back
 * and the event handled again later.
 */
static bool
handle(const Event *event)
{
	char		position[32];
	char		received_at[32];
	const char *params[] = {name, position, event->id, event->type, event->key, event->payload,
							received_at, event->notified ? "true" : "false"};

	snprintf(position, sizeof(position), "%" PRId64, event->position);
	snprintf(received_at, sizeof(received_at), "%.6f", event->received_at);
	if (verbose)
		printf("%s %s %s %s, %s %.3f ms after it was emitted\n",
			   position, event->id, event->type, event->key ? event->key : "-",
			   event->notified ? "notified" : "read",
			   (event->received_at - event->emitted_at) * 1000);
	return execute("INSERT INTO handled (listener, \"position\", id, type, key, payload,"
				   " received_at, notified)"
				   " VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7), $8)",
				   8, params);
}

/* The event in a row that begins with EVENT_COLUMNS. */
static Event
get_event(const PGresult *result, int row, double received_at, bool notified)
{
	Event		event = {
		.position = strtoll(PQgetvalue(result, row, 0), NULL, 10),
		.id = PQgetvalue(result, row, 1),
		.type = PQgetvalue(result, row, 2),
		.key = PQgetisnull(result, row, 3) ? NULL : PQgetvalue(result, row, 3),
		.payload = PQgetvalue(result, row, 4),
		.emitted_at = strtod(PQgetvalue(result, row, 5), NULL),
		.received_at = received_at,
		.notified = notified};

	return event;
}

/*
 * Handle a page of the feed.  A page that is not full reached `upto`; only then
 * may we take that as our position, as events of other types stand between.
 */
static bool
read_page(int64_t upto, bool *full)
{
	char		after_text[32];
	char		upto_text[32];
	char		page_size[32];
	const char *params[] = {after_text, page_size, types, upto_text};
	int64_t		position;
	PGresult   *page;
	bool		ok = true;

	if (!begin(&position))
		return false;
	snprintf(after_text, sizeof(after_text), "%" PRId64, position);
	snprintf(upto_text, sizeof(upto_text), "%" PRId64, upto);
	snprintf(page_size, sizeof(page_size), "%d", PAGE_SIZE);
	page = run("SELECT " EVENT_COLUMNS " FROM eventstore.read($1, $2, $3, $4)", 4, params);
	if (page == NULL)
		return false;

	for (int row = 0; ok && row < PQntuples(page); row++)
	{
		Event		event = get_event(page, row, now(), false);

		ok = handle(&event);
		position = event.position;
	}
	*full = PQntuples(page) == PAGE_SIZE;
	if (!*full && position < upto)
		position = upto;
	PQclear(page);
	return ok && commit(position);
}

/* Handle what stands in the feed after our position. */
static bool
catch_up(void)
{
	int64_t		upto;
	bool		more = true;

	if (!fetch_number("SELECT eventstore.head()", 0, NULL, &upto))
		return false;
	while (more)
	{
		if (!read_page(upto, &more))
			return false;
	}
	return true;
}

/*
 * Take the notifications that have come, up to PAGE_SIZE of them, and have the
 * server turn their JSON into rows.  *result is NULL if there are none.
 */
static bool
take_notifications(PGresult **result)
{
	char	   *json = NULL;
	size_t		length;
	FILE	   *array = NULL;
	PGnotify   *notification;
	int			count = 0;

	*result = NULL;
	while (count < PAGE_SIZE && (notification = PQnotifies(conn)) != NULL)
	{
		if (array == NULL && (array = open_memstream(&json, &length)) == NULL)
		{
			perror("listener");
			exit(1);
		}
		fprintf(array, "%c%s", count++ == 0 ? '[' : ',', notification->extra);
		PQfreemem(notification);
	}
	if (count == 0)
		return true;

	fputc(']', array);
	if (fclose(array) != 0)
	{
		perror("listener");
		exit(1);
	}
	*result = run("SELECT " EVENT_COLUMNS ", previous, truncated IS TRUE"
				  " FROM jsonb_to_recordset($1) AS n(\"position\" bigint, id bigint, type text,"
				  " key text, payload jsonb, emitted_at timestamptz, previous bigint,"
				  " truncated boolean)",
				  1, (const char *const *) &json);
	free(json);
	return *result != NULL;
}

/* Handle the notifications that have come. */
static bool
handle_notifications(void)
{
	double		received_at;
	int64_t		position;
	PGresult   *result;
	bool		missed;
	bool		ok;

	for (;;)
	{
		received_at = now();
		if (!take_notifications(&result))
			return false;
		if (result == NULL)
			return true;

		missed = false;
		ok = begin(&position);
		for (int row = 0; ok && !missed && row < PQntuples(result); row++)
		{
			Event		event = get_event(result, row, received_at, true);
			int64_t		previous = strtoll(PQgetvalue(result, row, 6), NULL, 10);
			bool		truncated = PQgetvalue(result, row, 7)[0] == 't';

			if (event.position <= position)
				continue;
			missed = previous > position || truncated;
			if (!missed)
			{
				ok = handle(&event);
				position = event.position;
			}
		}
		PQclear(result);
		if (!ok || !commit(position) || (missed && !catch_up()))
			return false;
	}
}

/* Wait for the server to send something, up to `silence`. */
static bool
wait_for_server(bool *silent)
{
	struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
	int			ready = poll(&fd, 1, silence);

	if (ready < 0 && errno != EINTR)
	{
		perror("listener: poll");
		exit(1);
	}
	*silent = (ready == 0);
	if (PQconsumeInput(conn))
		return true;
	complain("%s", PQerrorMessage(conn));
	return false;
}

/* Connect, listen, and have a position; a new listener begins with the oldest event. */
static bool
start(void)
{
	const char *const keywords[] = {"dbname", "fallback_application_name", NULL};
	const char *const values[] = {conninfo, "listener", NULL};
	char	   *quoted;
	char		listen[256];

	conn = PQconnectdbParams(keywords, values, 1);
	if (PQstatus(conn) != CONNECTION_OK)
	{
		complain("%s", PQerrorMessage(conn));
		return false;
	}

	quoted = PQescapeIdentifier(conn, channel, strlen(channel));
	if (quoted == NULL)
	{
		complain("%s", PQerrorMessage(conn));
		return false;
	}
	snprintf(listen, sizeof(listen), "LISTEN %s", quoted);
	PQfreemem(quoted);
	return execute(listen, 0, NULL) &&
		execute("INSERT INTO listener VALUES ($1, 0) ON CONFLICT DO NOTHING", 1, &name);
}

/* Handle events until something fails; false if it did at once. */
static bool
follow(void)
{
	bool		silent;

	if (!catch_up())
		return false;
	printf("listening\n");
	while (handle_notifications() && wait_for_server(&silent))
	{
		if (silent && !catch_up())
			break;
	}
	return true;
}

static void
usage(void)
{
	printf("usage: listener [OPTION]... [CONNECTION STRING]\n"
		   "  -c CHANNEL  listen there (orders)\n"
		   "  -t TYPES    types of events to read, as the subscription has them ({*})\n"
		   "  -n NAME     the name under which the position is stored (listener)\n"
		   "  -s SECONDS  read again after so long a silence (30)\n"
		   "  -v          print each event\n");
}

static void
parse_arguments(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "c:t:n:s:vh")) != -1)
	{
		switch (option)
		{
			case 'c':
				channel = optarg;
				break;
			case 't':
				types = optarg;
				break;
			case 'n':
				name = optarg;
				break;
			case 's':
				silence = atoi(optarg) * 1000;
				break;
			case 'v':
				verbose = true;
				break;
			case 'h':
				usage();
				exit(0);
			default:
				usage();
				exit(2);
		}
	}
	if (optind < argc)
		conninfo = argv[optind];
}

int
main(int argc, char **argv)
{
	bool		started = false;
	int			pause = MIN_PAUSE;

	parse_arguments(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);

	/* For ever, unless we cannot even start. */
	for (;;)
	{
		if (start())
		{
			started = true;
			if (follow())
				pause = MIN_PAUSE;
		}
		PQfinish(conn);
		if (!started)
			return 1;
		poll(NULL, 0, pause);
		pause = pause * 2 < MAX_PAUSE ? pause * 2 : MAX_PAUSE;
	}
}
