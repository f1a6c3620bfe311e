/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware: PM1a event block, PM1a control, PM timer, GPE0 block (ACPI 6.4, 4.8.4.1).
 *
 * The platform is always in ACPI mode: SCI_EN reads 1 and SMI_CMD does not
 * exist. The SCI is level-triggered: asserted while an enabled status bit is
 * set. The timer's status bit is set when bit 31 of the counter changes; it is
 * brought up to date whenever somebody looks, and by a timer while enabled.
 *
 * Sleep states other than S5 do not exist; asking for one does nothing.
 */
#include "hw/pm.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/util.h"

#define NS_PER_SEC 1000000000ull

#define STS_TIMER 0x0001
#define STS_BITS 0x8731 /* WAK, RTC, SLPBTN, PWRBTN, GBL, BM, TMR */
#define EN_BITS 0x0721	/* RTC, SLPBTN, PWRBTN, GBL, TMR */

#define CNT_SCI_EN 0x0001
#define CNT_KEPT 0x1c02 /* SLP_TYP, BM_RLD */
#define CNT_SLP_EN 0x2000

#define REG_STS 0
#define REG_EN 2
#define REG_CNT 4
#define REG_TMR 8
#define REG_GPE_STS 12
#define REG_GPE_EN 14

struct pm {
	pthread_mutex_t lock;
	uint16_t sts, en, cnt;
	uint16_t gpe_sts, gpe_en;
	bool sci;
	uint64_t start_ns;    /* when the counter stood at zero */
	uint64_t seen_halves; /* changes of bit 31 that the status bit has shown */
	struct bus *pio;
	const struct irq_sink *irq;
	const struct hw_clock *clock;
	const struct platform_ops *platform;
	void *timer;
};

static uint64_t ticks(const struct pm *pm)
{
	uint64_t ns = pm->clock->now_ns(pm->clock->opaque) - pm->start_ns;

	return (uint64_t)((unsigned __int128)ns * PM_TIMER_HZ / NS_PER_SEC);
}

/* Bring timer status, SCI and timer up to date */
static void update(struct pm *pm)
{
	uint64_t halves = ticks(pm) >> 31;
	bool sci;

	if (halves != pm->seen_halves)
		pm->sts |= STS_TIMER;
	pm->seen_halves = halves;
	sci = pm->sts & pm->en || pm->gpe_sts & pm->gpe_en;
	if (sci != pm->sci) {
		pm->sci = sci;
		irq_line(pm->irq, GSI_SCI, sci);
	}
	if (pm->en & STS_TIMER && !(pm->sts & STS_TIMER)) {
		unsigned __int128 ns = (unsigned __int128)(halves + 1) << 31;

		ns = (ns * NS_PER_SEC + PM_TIMER_HZ - 1) / PM_TIMER_HZ;
		pm->clock->timer_arm(pm->timer, pm->start_ns + (uint64_t)ns);
	} else {
		pm->clock->timer_arm(pm->timer, 0);
	}
}

static void timer_fn(void *arg)
{
	struct pm *pm = arg;

	pthread_mutex_lock(&pm->lock);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static uint8_t read_byte(struct pm *pm, unsigned off, uint32_t timer)
{
	switch (off) {
	case REG_STS:
	case REG_STS + 1:
		return (uint8_t)(pm->sts >> (8 * (off - REG_STS)));
	case REG_EN:
	case REG_EN + 1:
		return (uint8_t)(pm->en >> (8 * (off - REG_EN)));
	case REG_CNT:
	case REG_CNT + 1:
		return (uint8_t)((pm->cnt | CNT_SCI_EN) >> (8 * (off - REG_CNT)));
	case REG_TMR ... REG_TMR + 3:
		return (uint8_t)(timer >> (8 * (off - REG_TMR)));
	case REG_GPE_STS:
	case REG_GPE_STS + 1:
		return (uint8_t)(pm->gpe_sts >> (8 * (off - REG_GPE_STS)));
	case REG_GPE_EN:
	case REG_GPE_EN + 1:
		return (uint8_t)(pm->gpe_en >> (8 * (off - REG_GPE_EN)));
	}
	return 0;
}

static uint64_t pm_read(void *dev, uint64_t off, unsigned size)
{
	struct pm *pm = dev;
	uint64_t val = 0;
	uint32_t timer;

	pthread_mutex_lock(&pm->lock);
	timer = (uint32_t)ticks(pm);
	if (off < REG_CNT)
		update(pm);
	for (unsigned i = 0; i < size; i++)
		val |= (uint64_t)read_byte(pm, (unsigned)off + i, timer) << (8 * i);
	pthread_mutex_unlock(&pm->lock);
	return val;
}

/* True when the guest asks for S5 */
static bool write_byte(struct pm *pm, unsigned off, uint8_t val)
{
	unsigned shift = 8 * (off & 1);
	uint16_t in = (uint16_t)(val << shift), keep = (uint16_t) ~(0xff << shift);

	switch (off) {
	case REG_STS:
	case REG_STS + 1:
		pm->sts &= ~in;
		return false;
	case REG_EN:
	case REG_EN + 1:
		pm->en = (pm->en & keep) | (in & EN_BITS);
		return false;
	case REG_CNT:
	case REG_CNT + 1:
		pm->cnt = (pm->cnt & keep) | (in & CNT_KEPT);
		return in & CNT_SLP_EN && (pm->cnt >> 10 & 7) == PM_SLP_TYP_S5;
	case REG_GPE_STS:
	case REG_GPE_STS + 1:
		pm->gpe_sts &= ~in;
		return false;
	case REG_GPE_EN:
	case REG_GPE_EN + 1:
		pm->gpe_en = (pm->gpe_en & keep) | in;
		return false;
	}
	return false;
}

static void pm_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pm *pm = dev;
	bool power_off = false;

	pthread_mutex_lock(&pm->lock);
	for (unsigned i = 0; i < size; i++)
		power_off |= write_byte(pm, (unsigned)off + i, (uint8_t)(val >> (8 * i)));
	update(pm);
	pthread_mutex_unlock(&pm->lock);
	if (power_off && pm->platform && pm->platform->power_off)
		pm->platform->power_off(pm->platform->opaque);
}

static const struct bus_ops pm_bus_ops = { pm_read, pm_write };

void pm_power_button(struct pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->sts |= PM_STS_POWER_BUTTON;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void pm_gpe_raise(struct pm *pm, unsigned bit)
{
	pthread_mutex_lock(&pm->lock);
	pm->gpe_sts |= (uint16_t)(1u << bit);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void pm_reset(struct pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->sts = pm->en = pm->cnt = 0;
	pm->gpe_sts = pm->gpe_en = 0;
	pm->start_ns = pm->clock->now_ns(pm->clock->opaque);
	pm->seen_halves = 0;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

int pm_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	   const struct platform_ops *platform, struct pm **ret_pm, struct err *err)
{
	struct pm *pm = calloc(1, sizeof(*pm));
	int ret;

	if (!pm)
		return err_set(err, ENOMEM, "ACPI registers: out of memory");
	pthread_mutex_init(&pm->lock, NULL);
	pm->pio = pio;
	pm->irq = irq;
	pm->clock = clock;
	pm->platform = platform;
	ret = clock->timer_new(clock->opaque, timer_fn, pm, &pm->timer);
	if (!ret) {
		pm_reset(pm);
		ret = bus_add(pio, PORT_PM_BASE, PORT_PM_SIZE, &pm_bus_ops, pm);
	}
	if (ret < 0) {
		pm_free(pm);
		return err_set(err, -ret, "ACPI registers: %s", strerror(-ret));
	}
	*ret_pm = pm;
	return 0;
}

void pm_free(struct pm *pm)
{
	if (!pm)
		return;
	bus_del(pm->pio, PORT_PM_BASE, pm);
	if (pm->timer)
		pm->clock->timer_free(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

#define SNAP_NAME "pm"
#define SNAP_VERSION 2 /* 1: without general purpose events */

void pm_save(struct pm *pm, struct snap_writer *w)
{
	pthread_mutex_lock(&pm->lock);
	update(pm);
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u16(w, pm->sts);
	snap_put_u16(w, pm->en);
	snap_put_u16(w, pm->cnt);
	snap_put_u64(w, pm->clock->now_ns(pm->clock->opaque) - pm->start_ns);
	snap_put_u16(w, pm->gpe_sts);
	snap_put_u16(w, pm->gpe_en);
	snap_close(w);
	pthread_mutex_unlock(&pm->lock);
}

int pm_load(struct pm *pm, struct snap_reader *r, struct err *err)
{
	uint16_t sts, en, cnt, gpe_sts = 0, gpe_en = 0;
	uint64_t elapsed;
	uint32_t version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	sts = snap_get_u16(r);
	en = snap_get_u16(r);
	cnt = snap_get_u16(r);
	elapsed = snap_get_u64(r);
	if (version >= 2) {
		gpe_sts = snap_get_u16(r);
		gpe_en = snap_get_u16(r);
	}
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (sts & ~STS_BITS || en & ~EN_BITS || cnt & ~CNT_KEPT || elapsed >> 62)
		return err_set(err, EBADMSG, "ACPI registers: saved state is not valid");
	pthread_mutex_lock(&pm->lock);
	pm->sts = sts;
	pm->en = en;
	pm->cnt = cnt;
	pm->gpe_sts = gpe_sts;
	pm->gpe_en = gpe_en;
	pm->start_ns = pm->clock->now_ns(pm->clock->opaque) - elapsed;
	pm->seen_halves = ticks(pm) >> 31;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
	return 0;
}
