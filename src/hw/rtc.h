/* SPDX-License-Identifier: Apache-2.0 */
/* CMOS memory with the MC146818 real-time clock, ports 0x70 and 0x71, interrupt GSI_RTC. */
#ifndef EYOT_HW_RTC_H
#define EYOT_HW_RTC_H

#include "base/err.h"
#include "base/snap.h"
#include "hw/clock.h"
#include "vm/bus.h"
#include "vm/irq.h"

#define RTC_CENTURY 0x32 /* FADT's CENTURY */

struct rtc;

/**
 * rtc_new() - claims its ports on @pio; shows the host's UTC time
 * @mem_low_bytes: RAM below 4 GiB, @mem_high_bytes: RAM above, for the memory size bytes
 * @irq and @clock are borrowed
 */
int rtc_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	    uint64_t mem_low_bytes, uint64_t mem_high_bytes, struct rtc **ret_rtc, struct err *err);
void rtc_free(struct rtc *rtc);	 /* loop thread */
void rtc_reset(struct rtc *rtc); /* time and NVRAM are battery-backed and stay */
void rtc_save(struct rtc *rtc, struct snap_writer *w);
int rtc_load(struct rtc *rtc, struct snap_reader *r, struct err *err);

#endif
