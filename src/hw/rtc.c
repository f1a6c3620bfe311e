/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CMOS memory with an MC146818 real-time clock.
 *
 * The guest's time is the host's UTC wall-clock time plus an offset, which
 * changes only when the guest sets its clock; so it is right after a pause or
 * a restore. While the SET bit is on, the ten time bytes stand still and can
 * be written; afterwards they become the time, half a second into it.
 *
 * Flags of register C are brought up to date when somebody looks or the timer
 * fires: periodic by counting periods of the monotonic clock, update by the
 * second, alarm by the next matching second. The timer runs only while an
 * enabled interrupt is not already pending, so an unserved interrupt costs
 * the host nothing.
 *
 * Limits: the divider's reset state does not stop the clock; no square wave,
 * no daylight saving.
 */
#include "hw/rtc.h"

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "base/util.h"
#include "hw/platform.h"

#define RTC_SIZE 128
#define NS_PER_SEC 1000000000ll
#define UIP_NS 244000 /* update in progress shows this long before a second ends */
/* Guest time stays within what nanoseconds in 64 bits hold with room to spare: years 1900 to 2115
 */
#define SEC_MIN -2208988800ll
#define SEC_MAX 4600000000ll
#define OFFSET_MAX_NS (INT64_MAX / 2)
#define TIMER_MAX_NS (60 * NS_PER_SEC) /* the host's clock may be set meanwhile: look again */

enum {
	REG_SEC,
	REG_SEC_ALARM,
	REG_MIN,
	REG_MIN_ALARM,
	REG_HOUR,
	REG_HOUR_ALARM,
	REG_WDAY,
	REG_MDAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D
};

#define A_UIP 0x80
#define B_SET 0x80
#define B_BINARY 0x04
#define B_24H 0x02
#define FLAG_PERIODIC 0x40
#define FLAG_ALARM 0x20
#define FLAG_UPDATE 0x10
#define FLAGS (FLAG_PERIODIC | FLAG_ALARM | FLAG_UPDATE)
#define C_IRQ 0x80
#define D_VALID 0x80
#define HOUR_PM 0x80

struct rtc {
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t cmos[RTC_SIZE]; /* registers C and D, and the time bytes unless SET, are derived */
	uint8_t flags;		/* FLAG_*, part of register C */
	bool irq_level;
	int64_t offset_ns;    /* guest time - host wall-clock time */
	int64_t seen_sec;     /* guest second up to which update and alarm flags are settled */
	uint64_t seen_period; /* number of the period up to which the periodic flag is settled */
	struct bus *pio;
	const struct irq_sink *irq;
	const struct hw_clock *clock;
	void *timer;
};

static int64_t guest_ns(const struct rtc *rtc)
{
	return rtc->clock->wall_ns(rtc->clock->opaque) + rtc->offset_ns;
}

static int64_t floor_sec(int64_t ns)
{
	return ns >= 0 ? ns / NS_PER_SEC : -((-ns + NS_PER_SEC - 1) / NS_PER_SEC);
}

static uint8_t encode(const struct rtc *rtc, unsigned v)
{
	return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t v)
{
	return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
	unsigned h12 = hour % 12 ? hour % 12 : 12;

	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, h12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t v)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, v);
	return decode(rtc, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Write the time bytes from the running clock */
static void refresh_time(struct rtc *rtc)
{
	time_t sec = floor_sec(guest_ns(rtc));
	struct tm tm;

	if (!gmtime_r(&sec, &tm))
		return;
	rtc->cmos[REG_SEC] = encode(rtc, (unsigned)tm.tm_sec);
	rtc->cmos[REG_MIN] = encode(rtc, (unsigned)tm.tm_min);
	rtc->cmos[REG_HOUR] = encode_hour(rtc, (unsigned)tm.tm_hour);
	rtc->cmos[REG_WDAY] = encode(rtc, (unsigned)tm.tm_wday + 1);
	rtc->cmos[REG_MDAY] = encode(rtc, (unsigned)tm.tm_mday);
	rtc->cmos[REG_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = encode(rtc, (unsigned)(tm.tm_year + 1900) % 100);
	rtc->cmos[RTC_CENTURY] = encode(rtc, (unsigned)(tm.tm_year + 1900) / 100 % 100);
}

/* Make the time bytes the clock's time, @frac_ns into their second */
static void adopt_time(struct rtc *rtc, int64_t frac_ns)
{
	struct tm tm = {
		.tm_sec = (int)decode(rtc, rtc->cmos[REG_SEC]),
		.tm_min = (int)decode(rtc, rtc->cmos[REG_MIN]),
		.tm_hour = (int)decode_hour(rtc, rtc->cmos[REG_HOUR]),
		.tm_mday = (int)decode(rtc, rtc->cmos[REG_MDAY]),
		.tm_mon = (int)decode(rtc, rtc->cmos[REG_MONTH]) - 1,
		.tm_year = (int)(decode(rtc, rtc->cmos[REG_YEAR]) +
				 100 * decode(rtc, rtc->cmos[RTC_CENTURY])) -
			   1900,
	};
	int64_t sec = timegm(&tm); /* every byte's range is small: no overflow */

	if (sec < SEC_MIN || sec > SEC_MAX)
		sec = sec < SEC_MIN ? SEC_MIN : SEC_MAX;
	rtc->offset_ns = sec * NS_PER_SEC + frac_ns - rtc->clock->wall_ns(rtc->clock->opaque);
	rtc->seen_sec = floor_sec(guest_ns(rtc));
}

/* Period of the periodic interrupt in 1/32768 s; 0: off */
static unsigned period_ticks(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & 15;

	if (!rate)
		return 0;
	return rate < 3 ? 1u << (rate + 6) : 1u << (rate - 1);
}

static uint64_t period_number(const struct rtc *rtc)
{
	uint64_t ns = rtc->clock->now_ns(rtc->clock->opaque);

	return (uint64_t)((unsigned __int128)ns * 32768 / NS_PER_SEC) / period_ticks(rtc);
}

static bool alarm_field_matches(const struct rtc *rtc, unsigned reg, unsigned value)
{
	uint8_t v = rtc->cmos[reg];

	if (v >= 0xc0)
		return true;
	return (reg == REG_HOUR_ALARM ? decode_hour(rtc, v) : decode(rtc, v)) == value;
}

/* First second after @from that the alarm matches; -1: none */
static int64_t next_alarm(const struct rtc *rtc, int64_t from)
{
	int64_t t = from + 1, end = t + 86400 + 3600;

	while (t < end) {
		unsigned in_day = (unsigned)(((t % 86400) + 86400) % 86400);

		if (!alarm_field_matches(rtc, REG_HOUR_ALARM, in_day / 3600))
			t += 3600 - in_day % 3600;
		else if (!alarm_field_matches(rtc, REG_MIN_ALARM, in_day / 60 % 60))
			t += 60 - in_day % 60;
		else if (!alarm_field_matches(rtc, REG_SEC_ALARM, in_day % 60))
			t++;
		else
			return t;
	}
	return -1;
}

static void settle_flags(struct rtc *rtc)
{
	if (period_ticks(rtc)) {
		uint64_t number = period_number(rtc);

		if (number != rtc->seen_period)
			rtc->flags |= FLAG_PERIODIC;
		rtc->seen_period = number;
	}
	if (!(rtc->cmos[REG_B] & B_SET)) {
		int64_t sec = floor_sec(guest_ns(rtc)), alarm;

		if (sec != rtc->seen_sec)
			rtc->flags |= FLAG_UPDATE;
		if (sec > rtc->seen_sec) {
			alarm = next_alarm(rtc, rtc->seen_sec);
			if (alarm >= 0 && alarm <= sec)
				rtc->flags |= FLAG_ALARM;
		}
		rtc->seen_sec = sec;
	}
}

/* Nanoseconds from @guest until the guest's second @sec, at least 1 */
static uint64_t until(int64_t guest, int64_t sec)
{
	int64_t wait = sec * NS_PER_SEC - guest;

	return wait > 0 ? (uint64_t)wait : 1;
}

static void schedule(struct rtc *rtc)
{
	uint8_t b = rtc->cmos[REG_B];
	uint64_t now = rtc->clock->now_ns(rtc->clock->opaque), wait = TIMER_MAX_NS, at;
	int64_t guest = guest_ns(rtc), alarm;
	bool wanted = false;

	if (rtc->flags & b & FLAGS) {
		rtc->clock->timer_arm(rtc->timer, 0);
		return;
	}
	if (b & FLAG_PERIODIC && period_ticks(rtc)) {
		at = (uint64_t)(((unsigned __int128)(rtc->seen_period + 1) * period_ticks(rtc) *
				     NS_PER_SEC +
				 32767) /
				32768);
		wait = min_u64(wait, at > now ? at - now : 1);
		wanted = true;
	}
	if (b & FLAG_UPDATE && !(b & B_SET)) {
		wait = min_u64(wait, until(guest, rtc->seen_sec + 1));
		wanted = true;
	}
	if (b & FLAG_ALARM && !(b & B_SET)) {
		alarm = next_alarm(rtc, rtc->seen_sec);
		if (alarm >= 0)
			wait = min_u64(wait, until(guest, alarm));
		wanted = true;
	}
	rtc->clock->timer_arm(rtc->timer, wanted ? now + wait : 0);
}

/* After any change: flags, interrupt line, timer */
static void update(struct rtc *rtc)
{
	bool level;

	settle_flags(rtc);
	level = rtc->flags & rtc->cmos[REG_B] & FLAGS;
	if (level != rtc->irq_level)
		irq_line(rtc->irq, GSI_RTC, level);
	rtc->irq_level = level;
	schedule(rtc);
}

static void timer_fn(void *arg)
{
	struct rtc *rtc = arg;

	pthread_mutex_lock(&rtc->lock);
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static uint8_t read_cmos(struct rtc *rtc)
{
	uint8_t val;

	switch (rtc->index) {
	case REG_A:
		val = rtc->cmos[REG_A] & ~A_UIP;
		if (!(rtc->cmos[REG_B] & B_SET)) {
			int64_t ns = guest_ns(rtc);

			if (ns - floor_sec(ns) * NS_PER_SEC >= NS_PER_SEC - UIP_NS)
				val |= A_UIP;
		}
		return val;
	case REG_C:
		settle_flags(rtc);
		val = rtc->flags | (rtc->flags & rtc->cmos[REG_B] & FLAGS ? C_IRQ : 0);
		rtc->flags = 0;
		update(rtc);
		return val;
	case REG_D:
		return D_VALID;
	case REG_SEC:
	case REG_MIN:
	case REG_HOUR:
	case REG_WDAY:
	case REG_MDAY:
	case REG_MONTH:
	case REG_YEAR:
	case RTC_CENTURY:
		if (!(rtc->cmos[REG_B] & B_SET))
			refresh_time(rtc);
		return rtc->cmos[rtc->index];
	default:
		return rtc->cmos[rtc->index];
	}
}

static void write_b(struct rtc *rtc, uint8_t val)
{
	uint8_t old = rtc->cmos[REG_B];

	settle_flags(rtc);
	if (val & B_SET) {
		val &= ~FLAG_UPDATE; /* SET clears the update interrupt's enable */
		if (!(old & B_SET))
			refresh_time(rtc);
	}
	rtc->cmos[REG_B] = val;
	if (old & B_SET && !(val & B_SET))
		adopt_time(rtc, NS_PER_SEC / 2);
	update(rtc);
}

static void write_cmos(struct rtc *rtc, uint8_t val)
{
	bool set = rtc->cmos[REG_B] & B_SET;
	int64_t ns = guest_ns(rtc);

	switch (rtc->index) {
	case REG_A:
		settle_flags(rtc);
		rtc->cmos[REG_A] = val & ~A_UIP;
		rtc->seen_period = period_ticks(rtc) ? period_number(rtc) : 0;
		update(rtc);
		break;
	case REG_B:
		write_b(rtc, val);
		break;
	case REG_C:
	case REG_D:
		break;
	case REG_SEC:
	case REG_MIN:
	case REG_HOUR:
	case REG_WDAY:
	case REG_MDAY:
	case REG_MONTH:
	case REG_YEAR:
	case RTC_CENTURY:
		if (!set)
			refresh_time(rtc);
		rtc->cmos[rtc->index] = val;
		if (!set)
			adopt_time(rtc, ns - floor_sec(ns) * NS_PER_SEC);
		update(rtc);
		break;
	default:
		settle_flags(rtc);
		rtc->cmos[rtc->index] = val;
		update(rtc);
		break;
	}
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size)
{
	struct rtc *rtc = dev;
	uint64_t val = ~0ull;

	pthread_mutex_lock(&rtc->lock);
	if (off == 1 && size == 1)
		val = read_cmos(rtc);
	pthread_mutex_unlock(&rtc->lock);
	return val;
}

static void rtc_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct rtc *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	if (off == 0) {
		rtc->index = val & (RTC_SIZE - 1); /* bit 7 masks NMI, of which there are none */
		if (size > 1)
			write_cmos(rtc, (uint8_t)(val >> 8));
	} else if (size == 1) {
		write_cmos(rtc, (uint8_t)val);
	}
	pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_ops rtc_bus_ops = { rtc_read, rtc_write };

static void set_memory_sizes(struct rtc *rtc, uint64_t low, uint64_t high)
{
	uint64_t ext_kib = low > MIB(1) ? min_u64((low - MIB(1)) / KIB(1), 0xffff) : 0;
	uint64_t above16 = low > MIB(16) ? min_u64((low - MIB(16)) / KIB(64), 0xffff) : 0;
	uint64_t above4g = min_u64(high / KIB(64), 0xffffff);

	put_le16(rtc->cmos + 0x15, 640);
	put_le16(rtc->cmos + 0x17, (uint16_t)ext_kib);
	put_le16(rtc->cmos + 0x30, (uint16_t)ext_kib);
	put_le16(rtc->cmos + 0x34, (uint16_t)above16);
	rtc->cmos[0x5b] = (uint8_t)above4g;
	rtc->cmos[0x5c] = (uint8_t)(above4g >> 8);
	rtc->cmos[0x5d] = (uint8_t)(above4g >> 16);
}

void rtc_reset(struct rtc *rtc)
{
	pthread_mutex_lock(&rtc->lock);
	rtc->index = 0;
	if (rtc->cmos[REG_B] & B_SET)
		adopt_time(rtc, 0);
	/* 32768 Hz time base, 1024 Hz rate; interrupts off */
	rtc->cmos[REG_A] = 0x26;
	rtc->cmos[REG_B] = B_24H;
	rtc->seen_period = period_number(rtc);
	rtc->seen_sec = floor_sec(guest_ns(rtc));
	rtc->flags = 0;
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

int rtc_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	    uint64_t mem_low_bytes, uint64_t mem_high_bytes, struct rtc **ret_rtc, struct err *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int ret;

	if (!rtc)
		return err_set(err, ENOMEM, "real-time clock: out of memory");
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->pio = pio;
	rtc->irq = irq;
	rtc->clock = clock;
	set_memory_sizes(rtc, mem_low_bytes, mem_high_bytes);
	ret = clock->timer_new(clock->opaque, timer_fn, rtc, &rtc->timer);
	if (!ret) {
		rtc_reset(rtc);
		ret = bus_add(pio, PORT_RTC, 2, &rtc_bus_ops, rtc);
	}
	if (ret < 0) {
		rtc_free(rtc);
		return err_set(err, -ret, "real-time clock: %s", strerror(-ret));
	}
	*ret_rtc = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	bus_del(rtc->pio, PORT_RTC, rtc);
	if (rtc->timer)
		rtc->clock->timer_free(rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

#define SNAP_NAME "rtc"
#define SNAP_VERSION 1

void rtc_save(struct rtc *rtc, struct snap_writer *w)
{
	pthread_mutex_lock(&rtc->lock);
	settle_flags(rtc);
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u8(w, rtc->index);
	snap_put_bytes(w, rtc->cmos, RTC_SIZE);
	snap_put_u8(w, rtc->flags);
	snap_put_u64(w, (uint64_t)rtc->offset_ns);
	snap_close(w);
	pthread_mutex_unlock(&rtc->lock);
}

int rtc_load(struct rtc *rtc, struct snap_reader *r, struct err *err)
{
	uint8_t index, flags, cmos[RTC_SIZE];
	uint32_t version;
	int64_t offset;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	index = snap_get_u8(r);
	snap_get_bytes(r, cmos, RTC_SIZE);
	flags = snap_get_u8(r);
	offset = (int64_t)snap_get_u64(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (index >= RTC_SIZE || flags & ~FLAGS || cmos[REG_A] & A_UIP || offset > OFFSET_MAX_NS ||
	    offset < -OFFSET_MAX_NS)
		return err_set(err, EBADMSG, "real-time clock: saved state is not valid");
	pthread_mutex_lock(&rtc->lock);
	rtc->index = index;
	memcpy(rtc->cmos, cmos, RTC_SIZE);
	rtc->flags = flags;
	rtc->offset_ns = offset;
	rtc->seen_period = period_ticks(rtc) ? period_number(rtc) : 0;
	rtc->seen_sec = floor_sec(guest_ns(rtc));
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
	return 0;
}
