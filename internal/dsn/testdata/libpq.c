/*
 * libpq.c says how libpq reads connection strings, for libpq_test.go. It connects to nobody.
 *
 * libpq is made to walk its whole list of hosts: names become 127.0.0.1 without asking anybody, a connection seems to be
 * under way once it is begun, and refused when libpq looks again. In between libpq says where it is.
 *
 * A request and its answer are a length of four bytes, most significant first, and as many bytes. A request is a
 * connection string. An answer is texts that end with a NUL each: libpq's version, user, database; for each host its name,
 * hostaddr, port as written, port as dialled, and password; and what libpq says in the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <libpq-fe.h>

/* How long libpq may take for one connection string before it counts as hanging. */
#define PATIENCE 20

/* Of the host that libpq is at. */
static char hostaddr[NI_MAXHOST];
static char port[sizeof ".65535"];

/* Interposed: libpq asks for a hostaddr as a number, which resolves nothing, or for a name. */
int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

	if (real == NULL)
		real = dlsym(RTLD_NEXT, "getaddrinfo");
	hostaddr[0] = '\0';
	if (hints->ai_flags & AI_NUMERICHOST)
		snprintf(hostaddr, sizeof hostaddr, "%s", node);
	else
		node = "127.0.0.1";
	return real(node, service, hints, result);
}

/* Interposed: nothing is dialled. */
int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
	(void) fd;
	if (address->sa_family == AF_UNIX)
	{
		/* The path ends with the port: /tmp/.s.PGSQL.5432. An abstract one begins with a NUL. */
		const char *path = ((const struct sockaddr_un *) address)->sun_path;
		const char *dot = memrchr(path, '.', length - offsetof(struct sockaddr_un, sun_path));

		hostaddr[0] = '\0';
		snprintf(port, sizeof port, "%s", dot + 1);
	}
	else if (getnameinfo(address, length, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
		abort();
	errno = EINPROGRESS;
	return -1;
}

/* Interposed: libpq asks for SO_ERROR alone, to know what became of its dial. */
int
getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	(void) fd;
	(void) level;
	(void) option;
	(void) length;
	*(int *) value = ECONNREFUSED;
	return 0;
}

static void
say(FILE *answer, const char *text)
{
	fputs(text != NULL ? text : "", answer);
	fputc('\0', answer);
}

static void
read_dsn(const char *dsn, FILE *answer)
{
	PGconn *conn = PQconnectStart(dsn);

	fprintf(answer, "%d", PQlibVersion() / 10000);
	fputc('\0', answer);
	say(answer, PQuser(conn));
	say(answer, PQdb(conn));
	while (PQstatus(conn) != CONNECTION_BAD)
	{
		say(answer, PQhost(conn));
		say(answer, hostaddr);
		say(answer, PQport(conn));
		say(answer, port);
		say(answer, PQpass(conn));
		PQconnectPoll(conn);
	}
	say(answer, PQerrorMessage(conn));
	PQfinish(conn);
}

int
main(void)
{
	uint32_t length;

	while (fread(&length, sizeof length, 1, stdin) == 1)
	{
		char  *dsn = calloc(1, (size_t) ntohl(length) + 1);
		char  *text;
		size_t size;
		FILE  *answer = open_memstream(&text, &size);

		if (dsn == NULL || answer == NULL || fread(dsn, 1, ntohl(length), stdin) != ntohl(length))
			return 1;
		alarm(PATIENCE);
		read_dsn(dsn, answer);
		alarm(0);
		fclose(answer);
		length = htonl(size);
		fwrite(&length, sizeof length, 1, stdout);
		fwrite(text, 1, size, stdout);
		fflush(stdout);
		free(text);
		free(dsn);
	}
	return 0;
}
