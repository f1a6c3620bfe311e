/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 8254 interval timer (Intel 8254 data sheet).
 *
 * A channel keeps the time at which its count began; counter value and output
 * are functions of the time since then. Only channel 0's interrupts need a
 * timer: one pulse of GSI_PIT at each rise of its output. A pulse that comes
 * too late for a following one stands for both, as nobody could tell them
 * apart on an edge-triggered input that was not served.
 *
 * Limits: a count written takes effect at once, in modes 2 and 3, too (a real
 * one finishes the running period); the one-clock delay before a count loads
 * is left out. Channel 1 (memory refresh) counts, and nothing hangs on it.
 */
#include "hw/pit.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/util.h"
#include "hw/platform.h"

#define CHANNELS 3
#define NS_PER_SEC 1000000000ull
#define REFRESH_NS 15085 /* half a period of the refresh toggle */
#define IRQ_GAP_NS                                                                                 \
	50000 /* at least this between two interrupts: bounds what a guest can ask of the host */

enum rw { RW_LOW = 1, RW_HIGH = 2, RW_BOTH = 3 };

struct channel {
	uint8_t mode; /* 0..5 */
	bool bcd;
	uint8_t rw;	   /* enum rw */
	bool write_high;   /* RW_BOTH: the next byte written is the high one */
	bool read_high;	   /* RW_BOTH: the next byte read is the high one */
	uint8_t write_low; /* RW_BOTH: the low byte already written */
	bool loaded;	   /* a count was written since the control word */
	uint32_t count;	   /* 1..65536 */
	bool gate;
	bool running; /* counts since start_ns; else stands at held_ns */
	uint64_t start_ns, held_ns;
	uint8_t latched; /* bytes of latch still to be read: 0, 1, 2 */
	uint16_t latch;
	bool status_latched;
	uint8_t status;
};

struct pit {
	pthread_mutex_t lock;
	struct channel ch[CHANNELS];
	uint8_t speaker;  /* port 0x61 bits 0 and 1 */
	uint64_t periods; /* channel 0: rises of the output that were told */
	struct bus *pio;
	const struct irq_sink *irq;
	const struct hw_clock *clock;
	void *timer;
};

static uint64_t now_ns(const struct pit *p)
{
	return p->clock->now_ns(p->clock->opaque);
}

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_SEC);
}

/* The first nanosecond at which ns_to_ticks() gives @ticks */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

static uint64_t elapsed_ns(const struct pit *p, const struct channel *c)
{
	return c->running ? now_ns(p) - c->start_ns : c->held_ns;
}

static uint64_t elapsed_ticks(const struct pit *p, const struct channel *c)
{
	return ns_to_ticks(elapsed_ns(p, c));
}

static bool is_periodic(const struct channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

static bool needs_trigger(const struct channel *c)
{
	return c->mode == 1 || c->mode == 5;
}

static bool output(const struct pit *p, const struct channel *c)
{
	uint64_t ticks = elapsed_ticks(p, c);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return ticks >= c->count;
	case 1:
		return !c->running || ticks >= c->count;
	case 2:
		return !c->running || ticks % c->count != c->count - 1;
	case 3:
		return !c->running || ticks % c->count < (c->count + 1) / 2;
	default:
		return !c->running || ticks != c->count;
	}
}

static uint16_t to_bcd(uint32_t v)
{
	v %= 10000;
	return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t counter(const struct pit *p, const struct channel *c)
{
	uint64_t ticks = elapsed_ticks(p, c);
	uint32_t modulo = c->bcd ? 10000 : 65536, value;

	switch (c->mode) {
	case 2:
		value = c->count - (uint32_t)(ticks % c->count);
		break;
	case 3:
		value = c->count - (uint32_t)(2 * ticks % c->count);
		break;
	default:
		/* counts on through zero */
		value = (c->count % modulo + modulo - (uint32_t)(ticks % modulo)) % modulo;
		break;
	}
	return c->bcd ? to_bcd(value) : (uint16_t)value;
}

/* Arm the timer for the next rise of channel 0's output */
static void schedule(struct pit *p)
{
	const struct channel *c = &p->ch[0];
	uint64_t at, earliest;

	if (!c->loaded || !c->running || (!is_periodic(c) && p->periods)) {
		p->clock->timer_arm(p->timer, 0);
		return;
	}
	at = c->start_ns + ticks_to_ns((p->periods + 1) * c->count);
	earliest = now_ns(p) + IRQ_GAP_NS;
	p->clock->timer_arm(p->timer, is_periodic(c) && at < earliest ? earliest : at);
}

static void timer_fn(void *arg)
{
	struct pit *p = arg;
	struct channel *c = &p->ch[0];

	pthread_mutex_lock(&p->lock);
	if (c->loaded && c->running && (is_periodic(c) || !p->periods)) {
		uint64_t periods = elapsed_ticks(p, c) / c->count;

		if (periods > p->periods) {
			p->periods = periods;
			irq_line(p->irq, GSI_PIT, true);
			irq_line(p->irq, GSI_PIT, false);
		}
		schedule(p);
	}
	pthread_mutex_unlock(&p->lock);
}

static void start(struct pit *p, struct channel *c)
{
	c->running = true;
	c->start_ns = now_ns(p);
	c->held_ns = 0;
	if (c == &p->ch[0])
		p->periods = 0;
}

static void stop(struct pit *p, struct channel *c)
{
	c->held_ns = elapsed_ns(p, c);
	c->running = false;
}

static void load_count(struct pit *p, struct channel *c, uint16_t raw)
{
	uint32_t count = c->bcd ? from_bcd(raw) : raw;

	if (!count)
		count = c->bcd ? 10000 : 65536;
	c->count = count;
	c->loaded = true;
	if (needs_trigger(c)) {
		/* waits for the gate to rise; a running shot goes on */
	} else if (c->gate) {
		start(p, c);
	} else {
		c->running = false;
		c->held_ns = 0;
	}
	if (c == &p->ch[0])
		schedule(p);
}

static void write_count(struct pit *p, struct channel *c, uint8_t val)
{
	switch (c->rw) {
	case RW_LOW:
		load_count(p, c, val);
		break;
	case RW_HIGH:
		load_count(p, c, (uint16_t)(val << 8));
		break;
	default:
		if (c->write_high) {
			c->write_high = false;
			load_count(p, c, (uint16_t)(val << 8 | c->write_low));
			break;
		}
		c->write_high = true;
		c->write_low = val;
		if (c->mode == 0) { /* the first byte stops the count and lowers the output */
			c->loaded = false;
			c->running = false;
			c->held_ns = 0;
			if (c == &p->ch[0])
				schedule(p);
		}
		break;
	}
}

static void latch_count(const struct pit *p, struct channel *c)
{
	if (c->latched)
		return;
	c->latch = counter(p, c);
	c->latched = c->rw == RW_BOTH ? 2 : 1;
}

static void latch_status(const struct pit *p, struct channel *c)
{
	if (c->status_latched)
		return;
	c->status =
	    (uint8_t)(output(p, c) << 7 | !c->loaded << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static void write_control(struct pit *p, uint8_t val)
{
	unsigned which = val >> 6, rw = val >> 4 & 3, mode = val >> 1 & 7;
	struct channel *c;

	if (which == 3) { /* read-back */
		for (unsigned i = 0; i < CHANNELS; i++) {
			if (!(val >> (i + 1) & 1))
				continue;
			if (!(val & 0x20))
				latch_count(p, &p->ch[i]);
			if (!(val & 0x10))
				latch_status(p, &p->ch[i]);
		}
		return;
	}
	c = &p->ch[which];
	if (!rw) {
		latch_count(p, c);
		return;
	}
	*c = (struct channel) {
		.mode = (uint8_t)(mode > 5 ? mode - 4 : mode),
		.bcd = val & 1,
		.rw = (uint8_t)rw,
		.count = 65536,
		.gate = c->gate,
	};
	if (!which)
		schedule(p);
}

static uint8_t read_count(struct pit *p, struct channel *c)
{
	uint16_t val;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->latched) {
		if (c->rw == RW_HIGH || (c->rw == RW_BOTH && c->latched == 1)) {
			c->latched = 0;
			return (uint8_t)(c->latch >> 8);
		}
		c->latched--;
		return (uint8_t)c->latch;
	}
	val = counter(p, c);
	if (c->rw == RW_BOTH) {
		c->read_high = !c->read_high;
		return (uint8_t)(c->read_high ? val : val >> 8);
	}
	return (uint8_t)(c->rw == RW_HIGH ? val >> 8 : val);
}

static void set_gate(struct pit *p, struct channel *c, bool gate)
{
	bool rising = gate && !c->gate;

	if (gate == c->gate)
		return;
	c->gate = gate;
	if (!c->loaded)
		return;
	if (needs_trigger(c)) {
		if (rising)
			start(p, c);
	} else if (!rising) {
		stop(p, c);
	} else if (is_periodic(c)) {
		start(p, c);
	} else { /* modes 0 and 4 go on where they stood */
		c->running = true;
		c->start_ns = now_ns(p) - c->held_ns;
	}
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < size; i++) {
		unsigned port = (unsigned)(off + i) & 3;
		uint8_t byte = port < CHANNELS ? read_count(p, &p->ch[port]) : 0xff;

		val |= (uint64_t)byte << (8 * i);
	}
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void pit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < size; i++) {
		unsigned port = (unsigned)(off + i) & 3;

		if (port < CHANNELS)
			write_count(p, &p->ch[port], (uint8_t)(val >> (8 * i)));
		else
			write_control(p, (uint8_t)(val >> (8 * i)));
	}
	pthread_mutex_unlock(&p->lock);
}

static uint64_t speaker_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;
	uint64_t val;

	pthread_mutex_lock(&p->lock);
	val = p->speaker | (now_ns(p) / REFRESH_NS & 1) << 4 | (uint64_t)output(p, &p->ch[2]) << 5;
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void speaker_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);
	p->speaker = val & 3;
	set_gate(p, &p->ch[2], val & 1);
	pthread_mutex_unlock(&p->lock);
}

static const struct bus_ops pit_bus_ops = { pit_read, pit_write };
static const struct bus_ops speaker_bus_ops = { speaker_read, speaker_write };

void pit_reset(struct pit *p)
{
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < CHANNELS; i++)
		p->ch[i] =
		    (struct channel) { .mode = 3, .rw = RW_BOTH, .count = 65536, .gate = i != 2 };
	p->speaker = 0;
	p->periods = 0;
	schedule(p);
	pthread_mutex_unlock(&p->lock);
}

int pit_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	    struct pit **ret_pit, struct err *err)
{
	struct pit *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_set(err, ENOMEM, "interval timer: out of memory");
	pthread_mutex_init(&p->lock, NULL);
	p->pio = pio;
	p->irq = irq;
	p->clock = clock;
	ret = clock->timer_new(clock->opaque, timer_fn, p, &p->timer);
	if (!ret) {
		pit_reset(p);
		ret = bus_add(pio, PORT_PIT, 4, &pit_bus_ops, p);
	}
	if (!ret)
		ret = bus_add(pio, PORT_NMI_STATUS, 1, &speaker_bus_ops, p);
	if (ret < 0) {
		pit_free(p);
		return err_set(err, -ret, "interval timer: %s", strerror(-ret));
	}
	*ret_pit = p;
	return 0;
}

void pit_free(struct pit *p)
{
	if (!p)
		return;
	bus_del(p->pio, PORT_PIT, p);
	bus_del(p->pio, PORT_NMI_STATUS, p);
	if (p->timer)
		p->clock->timer_free(p->timer);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

#define SNAP_NAME "pit"
#define SNAP_VERSION 1

void pit_save(struct pit *p, struct snap_writer *w)
{
	pthread_mutex_lock(&p->lock);
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u8(w, p->speaker);
	snap_put_u64(w, p->periods);
	for (unsigned i = 0; i < CHANNELS; i++) {
		const struct channel *c = &p->ch[i];

		snap_put_u8(w, c->mode);
		snap_put_u8(w, (uint8_t)(c->bcd | c->write_high << 1 | c->read_high << 2 |
					 c->loaded << 3 | c->gate << 4 | c->running << 5 |
					 c->status_latched << 6));
		snap_put_u8(w, c->rw);
		snap_put_u8(w, c->write_low);
		snap_put_u32(w, c->count);
		snap_put_u64(w, elapsed_ns(p, c));
		snap_put_u8(w, c->latched);
		snap_put_u16(w, c->latch);
		snap_put_u8(w, c->status);
	}
	snap_close(w);
	pthread_mutex_unlock(&p->lock);
}

static bool load_channel(const struct pit *p, struct channel *c, struct snap_reader *r)
{
	uint64_t elapsed;
	uint8_t flags;

	c->mode = snap_get_u8(r);
	flags = snap_get_u8(r);
	c->bcd = flags & 1;
	c->write_high = flags & 2;
	c->read_high = flags & 4;
	c->loaded = flags & 8;
	c->gate = flags & 0x10;
	c->running = flags & 0x20;
	c->status_latched = flags & 0x40;
	c->rw = snap_get_u8(r);
	c->write_low = snap_get_u8(r);
	c->count = snap_get_u32(r);
	elapsed = snap_get_u64(r);
	c->latched = snap_get_u8(r);
	c->latch = snap_get_u16(r);
	c->status = snap_get_u8(r);
	c->start_ns = now_ns(p) - elapsed;
	c->held_ns = c->running ? 0 : elapsed;
	return c->mode <= 5 && c->rw >= RW_LOW && c->rw <= RW_BOTH && c->count >= 1 &&
	       c->count <= 65536 && c->latched <= 2 && elapsed < 1ull << 62;
}

int pit_load(struct pit *p, struct snap_reader *r, struct err *err)
{
	struct channel ch[CHANNELS] = { 0 };
	uint64_t periods;
	uint32_t version;
	uint8_t speaker;
	bool valid = true;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	speaker = snap_get_u8(r);
	periods = snap_get_u64(r);
	for (unsigned i = 0; i < CHANNELS; i++)
		valid = load_channel(p, &ch[i], r) && valid;
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	/* what was told cannot exceed what has passed */
	if (!valid || speaker > 3 ||
	    (ch[0].running && periods > elapsed_ticks(p, &ch[0]) / ch[0].count))
		return err_set(err, EBADMSG, "interval timer: saved state is not valid");
	pthread_mutex_lock(&p->lock);
	memcpy(p->ch, ch, sizeof(ch));
	p->speaker = speaker;
	p->periods = periods;
	schedule(p);
	pthread_mutex_unlock(&p->lock);
	return 0;
}
