# Net::Stomp against a broker: a line of TAP for each scenario. STOMP_PORT says where, ACTIVEMQ_PORT where it is spoken as an ActiveMQ does;
# STOMP_CONTROL is a line protocol that restarts the broker.

use strict;
use warnings;

use IO::Socket::INET;
use Net::Stomp;
use Socket qw(SOL_SOCKET SO_LINGER);

my $HOST = $ENV{STOMP_HOST} // '127.0.0.1';
my $PORT = $ENV{STOMP_PORT} or die 'STOMP_PORT must say where';
my $ACTIVEMQ_PORT = $ENV{ACTIVEMQ_PORT} or die 'ACTIVEMQ_PORT must say where';
my $WAIT = 20;
$| = 1;

# Logs nothing.
package Quiet { sub new { bless {}, shift } our $AUTOLOAD; sub AUTOLOAD { 1 } sub DESTROY { } }

sub bare {
    my ($port) = @_;
    return Net::Stomp->new({ hostname => $HOST, port => $port // $PORT, logger => Quiet->new, reconnect_on_fork => 0, initial_reconnect_attempts => 1 });
}

# The module speaks the words of 1.0 and 1.1.
sub connected {
    my ($port, %more) = @_;
    my $stomp = bare($port);
    my $frame = $stomp->connect({ login => 'guest', passcode => 'guest', 'accept-version' => '1.1', host => '/', %more });
    die 'not let in' unless $frame && $frame->command eq 'CONNECTED' && $frame->headers->{version} eq '1.1';
    return $stomp;
}

sub equal {
    my ($got, $wanted) = @_;
    die "'" . ($got // 'nothing') . "' instead of '$wanted'" unless defined $got && $got eq $wanted;
}

sub frame {
    my ($stomp, $command) = @_;
    my $frame = $stomp->receive_frame({ timeout => $WAIT }) or die "no $command in time";
    die 'an ERROR: ' . ($frame->headers->{message} // '') . ' ' . ($frame->body // '') if $frame->command eq 'ERROR' && $command ne 'ERROR';
    equal($frame->command, $command);
    return $frame;
}

sub message {
    my ($stomp, $body, $redelivered) = @_;
    my $frame = frame($stomp, 'MESSAGE');
    equal($frame->body, $body);
    equal($frame->headers->{redelivered} // 'false', $redelivered) if defined $redelivered;
    return $frame;
}

sub receipt {
    my ($stomp, $id) = @_;
    equal(frame($stomp, 'RECEIPT')->headers->{'receipt-id'}, $id);
}

sub nothing {
    my ($stomp) = @_;
    my $frame = $stomp->receive_frame({ timeout => 0.3 }) or return;
    die 'nothing was expected: ' . $frame->as_string;
}

my $made = 0;
sub name { return "perl-$_[0]-$$-" . ++$made }

sub subscribe {
    my ($stomp, $destination, %more) = @_;
    $stomp->subscribe({ destination => $destination, id => 's', ack => 'client-individual', receipt => 'subscribed', %more });
    receipt($stomp, 'subscribed');
}

sub send_safely {
    my ($stomp, $destination, $body, %more) = @_;
    $stomp->send_with_receipt({ destination => $destination, body => $body, persistent => 'true', timeout => $WAIT, %more })
        or die "no receipt for $destination";
}

sub restart {
    my ($word) = @_;
    my $control = IO::Socket::INET->new(PeerAddr => $ENV{STOMP_CONTROL}, Timeout => $WAIT) or die 'nobody restarts the broker';
    print {$control} "$word\n";
    my $answer = <$control> // '';
    chomp $answer;
    equal($answer, 'ok');
}

my @SCENARIOS = (
    [receipts => sub {
        my ($stomp, $queue) = (connected(), '/queue/' . name('receipts'));
        for my $n (1 .. 100) { $stomp->send({ destination => $queue, body => $n, persistent => 'true', receipt => "r$n" }) }
        receipt($stomp, "r$_") for 1 .. 100;
        subscribe($stomp, $queue, ack => 'auto');
        message($stomp, $_) for 1 .. 100;
        $stomp->disconnect;
    }],
    ['client-individual' => sub {
        my ($stomp, $queue) = (connected(), '/queue/' . name('individual'));
        send_safely($stomp, $queue, $_) for 1 .. 3;
        subscribe($stomp, $queue);
        my @all = map { message($stomp, $_) } 1 .. 3;
        $stomp->ack({ frame => $all[1], subscription => 's', receipt => 'acked' });
        receipt($stomp, 'acked');
        $stomp->disconnect;
        my $again = connected();
        subscribe($again, $queue, ack => 'auto');
        message($again, 1, 'true');
        message($again, 3, 'true');
        nothing($again);
        $again->disconnect;
    }],
    [nack => sub {
        my ($stomp, $queue, $dead) = (connected(), '/queue/' . name('nack'), name('dead'));
        my %letters = ('x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => $dead);
        subscribe($stomp, "/queue/$dead", id => 'dead', ack => 'auto');
        subscribe($stomp, $queue, %letters);
        $stomp->send({ destination => $queue, body => 'again', %letters });
        $stomp->nack({ frame => message($stomp, 'again', 'false'), subscription => 's' });
        $stomp->nack({ frame => message($stomp, 'again', 'true'), subscription => 's', requeue => 'false' });
        equal(message($stomp, 'again')->headers->{'x-first-death-reason'}, 'rejected');
        $stomp->disconnect;
    }],
    [transaction => sub {
        my ($stomp, $queue) = (connected(), '/queue/' . name('tx'));
        # BEGIN, SEND with a receipt, and COMMIT.
        $stomp->send_transactional({ destination => $queue, body => 'committed' }) or die 'not committed';
        $stomp->send_frame(Net::Stomp::Frame->new({ command => 'BEGIN', headers => { transaction => 't' } }));
        send_safely($stomp, $queue, 'never', transaction => 't');
        $stomp->send_frame(Net::Stomp::Frame->new({ command => 'ABORT', headers => { transaction => 't', receipt => 'aborted' } }));
        receipt($stomp, 'aborted');
        subscribe($stomp, $queue, ack => 'auto');
        message($stomp, 'committed');
        nothing($stomp);
        $stomp->disconnect;
    }],
    ['durable-subscription' => sub {
        my $topic = '/topic/' . name('durable');
        my %lasting = (id => $topic, durable => 'true', 'auto-delete' => 'false');
        my $first = connected();
        subscribe($first, $topic, %lasting);
        $first->disconnect;
        my $sender = connected();
        send_safely($sender, $topic, 'kept');
        $sender->disconnect;
        restart('kill9');
        my $second = connected();
        subscribe($second, $topic, %lasting, ack => 'auto');
        message($second, 'kept');
        $second->unsubscribe({ destination => $topic, %lasting, receipt => 'ended' });
        receipt($second, 'ended');
        $second->disconnect;
    }],
    ['activemq-dialect' => sub {
        my $topic = name('topic');
        my ($stomp, $later, $queue) = (connected($ACTIVEMQ_PORT), name('later'), "/queue/Consumer.Perl.VirtualTopic.$topic");
        subscribe($stomp, $queue, ack => 'auto');
        # The module takes whatever comes next for the receipt: nobody sends to himself here.
        my $sender = connected($ACTIVEMQ_PORT);
        send_safely($sender, "/topic/VirtualTopic.$topic", 'behind a virtual topic');
        equal(message($stomp, 'behind a virtual topic')->headers->{'original-destination'}, "/topic/VirtualTopic.$topic");
        subscribe($stomp, "/queue/$later,/queue/$later.too", id => 'two', ack => 'auto');
        send_safely($sender, "/queue/$later,/queue/$later.too", 'twice', AMQ_SCHEDULED_DELAY => 200);
        message($stomp, 'twice') for 1 .. 2;
        nothing($stomp);
        $sender->disconnect;
        $stomp->disconnect;
    }],
    [large => sub {
        my ($stomp, $queue) = (connected(), '/queue/' . name('large'));
        my $body = join('', map { chr } 0 .. 255) x 4096;
        send_safely($stomp, $queue, $body, bytes_message => 1);
        subscribe($stomp, $queue, ack => 'auto');
        my $got = frame($stomp, 'MESSAGE');
        die length($got->body) . ' bytes came, or others' unless $got->body eq $body;
        $stomp->disconnect;
    }],
    ['dirty-close' => sub {
        my ($stomp, $queue) = (connected(), '/queue/' . name('dirty'));
        send_safely($stomp, $queue, 'in hand');
        my $lost = connected();
        subscribe($lost, $queue, ack => 'client');
        message($lost, 'in hand', 'false');
        # Half a frame, and a reset.
        $lost->socket->syswrite("SEND\ndestination:$queue\ncontent-length:100\n\nhalf of it");
        setsockopt($lost->socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
        close $lost->socket;
        subscribe($stomp, $queue, ack => 'auto');
        message($stomp, 'in hand', 'true');
        nothing($stomp);
        $stomp->disconnect;
    }],
    ['wrong-password' => sub {
        my $frame = bare()->connect({ login => 'guest', passcode => 'wrong', 'accept-version' => '1.1', host => '/' });
        equal($frame->command . ' ' . $frame->headers->{message}, 'ERROR Bad CONNECT');
    }],
);

my $failed = 0;
for my $scenario (@SCENARIOS) {
    my ($title, $run) = @$scenario;
    my $good = eval {
        local $SIG{ALRM} = sub { die "it takes too long\n" };
        alarm 100;
        $run->();
        alarm 0;
        1;
    };
    my $why = $@ =~ s/\s+/ /gr;
    alarm 0;
    $failed++ unless $good;
    print $good ? "ok - $title\n" : "not ok - $title: $why\n";
}
exit($failed ? 1 : 0);
