#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The guest's first process in the kill test: appends numbered records to a file on the root
# disk and writes them to the second disk, flushes, and says on the console how far it is. It
# never ends; what it has said must be on the disks whatever happens to the machine.
use strict;
use warnings;
use Fcntl;
use IO::Handle;

use constant RECORD => 512;
use constant BATCH => 7;

STDOUT->autoflush(1);
sysopen(my $file, '/records', O_WRONLY | O_CREAT | O_APPEND) or die "records: $!";
sysopen(my $disk, '/dev/vdb', O_WRONLY) or die "vdb: $!";

sub records {
	my ($from, $to) = @_;
	return join '', map { my $t = sprintf 'record %012d ', $_; $t . ('x' x (RECORD - 1 - length $t)) . "\n" }
		$from .. $to - 1;
}

# What was not flushed when the machine ended may be on the file and not on the second disk.
my $n = int((-s '/records' || 0) / RECORD);
truncate $file, $n * RECORD or die "records: $!";
my $again = $n > 4 * BATCH ? $n - 4 * BATCH : 0;
sysseek($disk, $again * RECORD, 0) or die "vdb: $!";
syswrite($disk, records($again, $n)) if $again < $n;
print "writer: starts at $n\n";
while (1) {
	my $data = records($n, $n + BATCH);
	syswrite($file, $data) == length $data or die "records: $!";
	syswrite($disk, $data) == length $data or die "vdb: $!";
	$file->sync or die "records: $!";
	$disk->sync or die "vdb: $!";
	$n += BATCH;
	print "flushed $n\n";
}
