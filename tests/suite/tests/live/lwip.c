/*
 * lwIP as the other end: one TCP connection over a packet socket, with a link address of its own.
 *
 *   lwip-peer DEVICE V4 V6 IN OUT listen PORT
 *   lwip-peer DEVICE V4 V6 IN OUT connect HOST PORT
 *
 * Sends what is in IN, writes what comes to OUT, both at once; ends when both directions have. Status 0: in order.
 *
 *   lwIP's thread ── linkoutput ──> packet socket        reader's thread: packet socket ── tcpip_input ──> lwIP's thread
 *   main: netconn, never blocking, so that a peer that sends before it reads cannot lock both up
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <lwip/api.h>
#include <lwip/etharp.h>
#include <lwip/ethip6.h>
#include <lwip/netif.h>
#include <lwip/tcpip.h>

static const uint8_t MAC[6] = { 2, 0, 0, 0, 0, 4 };
/* Time between two looks when there is nothing to do, in microseconds. */
static const int GLANCE = 200;

static int wire;
static struct netif interface;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void check(const char *what, err_t error)
{
	if (error != ERR_OK) {
		fprintf(stderr, "%s: lwIP's error %d\n", what, error);
		exit(1);
	}
}

static err_t link_output(struct netif *netif, struct pbuf *packet)
{
	uint8_t frame[2048];
	u16_t length = pbuf_copy_partial(packet, frame, sizeof frame, 0);

	(void)netif;
	/* What the device does not take is lost, as on a wire. */
	return send(wire, frame, length, 0) < 0 ? ERR_IF : ERR_OK;
}

static void *listen_to_wire(void *nothing)
{
	uint8_t frame[2048];

	for (;;) {
		ssize_t length = recv(wire, frame, sizeof frame, 0);
		struct pbuf *packet;

		/* The kernel's frames, and those to it, come here too. */
		if (length < 14 || (!(frame[0] & 1) && memcmp(frame, MAC, 6)) || !memcmp(frame + 6, MAC, 6))
			continue;
		/* Not from the pool: Debian's lwIP 2.1.3 gives its buffers 616 bytes and believes that they have 1500 and more. */
		packet = pbuf_alloc(PBUF_RAW, (u16_t)length, PBUF_RAM);
		if (!packet)
			continue; /* lost, as by a NIC without buffers */
		pbuf_take(packet, frame, (u16_t)length);
		if (interface.input(packet, &interface) != ERR_OK)
			pbuf_free(packet);
	}
	return nothing;
}

static err_t prepare(struct netif *netif)
{
	netif->name[0] = 'b';
	netif->name[1] = 'w';
	netif->mtu = 1500;
	netif->hwaddr_len = 6;
	memcpy(netif->hwaddr, MAC, 6);
	netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP | NETIF_FLAG_MLD6;
	netif->output = etharp_output;
	netif->output_ip6 = ethip6_output;
	netif->linkoutput = link_output;
	return ERR_OK;
}

static void open_wire(const char *device)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };

	address.sll_ifindex = (int)if_nametoindex(device);
	wire = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	if (wire < 0 || !address.sll_ifindex || bind(wire, (struct sockaddr *)&address, sizeof address))
		fail(device);
}

static void add_addresses(const char *v4, const char *v6)
{
	ip4_addr_t address, mask, none = { 0 };
	ip6_addr_t own;
	s8_t place;

	if (!ip4addr_aton(v4, &address) || !ip6addr_aton(v6, &own))
		fail("an address");
	IP4_ADDR(&mask, 255, 255, 255, 0);
	LOCK_TCPIP_CORE();
	if (!netif_add(&interface, &address, &mask, &none, NULL, prepare, tcpip_input))
		fail("netif_add");
	netif_create_ip6_linklocal_address(&interface, 1);
	netif_ip6_addr_set_state(&interface, 0, IP6_ADDR_PREFERRED);
	check("an IPv6 address", netif_add_ip6_address(&interface, &own, &place));
	netif_ip6_addr_set_state(&interface, place, IP6_ADDR_PREFERRED);
	netif_set_default(&interface);
	netif_set_up(&interface);
	UNLOCK_TCPIP_CORE();
}

static struct netconn *open_connection(int count, char **words)
{
	struct netconn *server, *conn;
	ip_addr_t host;

	if (count == 2 && !strcmp(words[0], "listen")) {
		server = netconn_new(NETCONN_TCP_IPV6); /* takes IPv4 too */
		check("bind", netconn_bind(server, IP_ANY_TYPE, (u16_t)atoi(words[1])));
		check("listen", netconn_listen(server));
		puts("listening");
		fflush(stdout);
		check("accept", netconn_accept(server, &conn));
		return conn;
	}
	if (count != 3 || strcmp(words[0], "connect") || !ipaddr_aton(words[1], &host))
		fail("usage");
	conn = netconn_new(IP_IS_V6(&host) ? NETCONN_TCP_IPV6 : NETCONN_TCP);
	check("connect", netconn_connect(conn, &host, (u16_t)atoi(words[2])));
	return conn;
}

static char *read_all(const char *name, size_t *length)
{
	FILE *file = fopen(name, "rb");
	char *bytes;

	if (!file || fseek(file, 0, SEEK_END))
		fail(name);
	*length = (size_t)ftell(file);
	rewind(file);
	bytes = malloc(*length + 1);
	if (!bytes || fread(bytes, 1, *length, file) != *length)
		fail(name);
	fclose(file);
	return bytes;
}

/* Sends and receives until both directions have ended. */
static void talk(struct netconn *conn, const char *bytes, size_t length, FILE *out)
{
	size_t sent = 0;
	int shut = 0, ended = 0;

	netconn_set_nonblocking(conn, 1);
	while (!shut || !ended) {
		int busy = 0;

		if (sent < length) {
			size_t took = 0;
			err_t error = netconn_write_partly(conn, bytes + sent, length - sent, NETCONN_COPY | NETCONN_DONTBLOCK, &took);

			if (error != ERR_WOULDBLOCK)
				check("write", error);
			sent += took;
			busy = took > 0;
		} else if (!shut) {
			err_t error = netconn_shutdown(conn, 0, 1);

			if (error != ERR_WOULDBLOCK && error != ERR_INPROGRESS) {
				check("shutdown", error);
				shut = 1;
			}
		}
		if (!ended) {
			struct pbuf *packet = NULL, *part;
			err_t error = netconn_recv_tcp_pbuf_flags(conn, &packet, NETCONN_DONTBLOCK);

			if (error == ERR_CLSD) {
				ended = busy = 1;
			} else if (error != ERR_WOULDBLOCK) {
				check("receive", error);
				for (part = packet; part; part = part->next)
					if (fwrite(part->payload, 1, part->len, out) != part->len)
						fail("OUT");
				pbuf_free(packet);
				busy = 1;
			}
		}
		if (!busy)
			usleep(GLANCE);
	}
}

static void ready(void *flag)
{
	*(volatile int *)flag = 1;
}

int main(int count, char **words)
{
	volatile int started = 0;
	struct netconn *conn;
	pthread_t reader;
	size_t length;
	char *bytes;
	FILE *out;

	if (count < 8)
		fail("usage: DEVICE V4 V6 IN OUT listen PORT | connect HOST PORT");
	open_wire(words[1]);
	bytes = read_all(words[4], &length);
	out = fopen(words[5], "wb");
	if (!out)
		fail(words[5]);
	tcpip_init(ready, (void *)&started);
	while (!started)
		usleep(GLANCE);
	add_addresses(words[2], words[3]);
	if (pthread_create(&reader, NULL, listen_to_wire, NULL))
		fail("a thread");
	conn = open_connection(count - 6, words + 6);
	talk(conn, bytes, length, out);
	if (fclose(out))
		fail("OUT");
	/* Until our FIN and the last of what we sent are acknowledged, lwIP has to be there to send them again. */
	netconn_set_nonblocking(conn, 0);
	netconn_close(conn);
	puts("done");
	fflush(stdout);
	sleep(2);
	return 0;
}
