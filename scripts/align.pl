#!/usr/bin/perl
#
# align.pl - what pgindent does and clang-format cannot: in declarations the
# name stands 12 columns after the indentation, and a comment behind code stands
# at column 32 or, if the code is longer, at the next tab stop.  Reads what
# clang-format wrote, writes the same with other blanks.  See format.sh.
#
# It knows lines, not C: a line is taken for a declaration by its looks, outside
# of parentheses and comments.

use strict;
use warnings;

use constant { TAB => 4, NAME_COLUMN => 12, COMMENT_COLUMN => 32 };

# The column after some text.
sub column_after
{
	my ($text) = @_;
	my $column = 0;

	foreach my $char (split //, $text)
	{
		$column += $char eq "\t" ? TAB - $column % TAB : 1;
	}
	return $column;
}

# The blanks between two columns.  A tab of one column's width is a space, unless
# another tab follows.
sub blanks
{
	my ($from, $to) = @_;
	my $first = TAB - $from % TAB;

	return ' ' x ($to - $from) if $to - $from < $first;
	return ' ' x ($to - $from) if $first == 1 && $to - $from < 1 + TAB;
	return "\t" x (1 + int(($to - $from - $first) / TAB)) . ' ' x (($to - $from - $first) % TAB);
}

# A line with its strings and characters made unrecognisable, same length.
sub mask_strings
{
	my ($line) = @_;

	$line =~ s{("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')}{'~' x length $1}ge;
	return $line;
}

# "int x;" with x where it belongs; other lines come back as they are.
sub align_declaration
{
	my ($line) = @_;
	my ($indent, $type, $stars, $name, $rest) =
	  $line =~ /^(\t*)((?:\w+ )*\w+)\s+(\**)(\w+)(\s*(?:[;,=\[\(].*|: \d.*))$/
	  or return $line;

	return $line if $type =~ /^(?:return|goto|else|case|typedef)\b/;
	# a function is declared at the margin; elsewhere this may be a macro
	return $line if $rest =~ /^\(/ && $indent ne '';
	my $from = length $type;
	my $to = NAME_COLUMN - length $stars;
	return $indent . $type . ($from < $to ? blanks($from, $to) : ' ') . $stars . $name . $rest;
}

my $parens = 0;             # how deep in parentheses the line begins
my $shift = 0;              # by how much the line that opened them has moved
my %typedef;                # by indentation: is the last struct there a typedef?
my $in_comment = 0;         # does the line begin in a comment?
my $comment_column;         # where that comment began, if it is behind code
my $in_directive = 0;       # is the line one of the preprocessor's?

while (my $line = <STDIN>)
{
	chomp $line;

	if ($in_comment)
	{
		if (defined $comment_column && $line =~ /^\s+(\*.*)$/)
		{
			$line = blanks(0, $comment_column) . ' ' . $1;
		}
		$in_comment = $line !~ m{\*/};
		print "$line\n";
		next;
	}

	my $directive = $in_directive || $line =~ /^\s*#/;
	$in_directive = $directive && $line =~ /\\$/;
	my ($code, $comment) = ($line, '');
	my $masked = mask_strings($line);

	# the last comment on the line, if the line ends with or in it
	if ($masked =~ m{^(.*?)\s*(/\*(?:(?!\*/).)*(?:\*/)?)$})
	{
		$code = substr $line, 0, length $1;
		$comment = substr $line, $-[2];
	}
	$in_comment = $comment ne '' && $comment !~ m{\*/$};
	undef $comment_column;

	if (!$directive)
	{
		if ($parens > 0)
		{
			# what was aligned with the parenthesis moves with it
			$code =~ s/^(\s*)/blanks(0, column_after($1) + $shift)/e if $shift != 0;
		}
		else
		{
			my $before = column_after($code);

			$code = align_declaration($code);
			$shift = column_after($code) - $before;
			$typedef{$1} = defined $2 if $code =~ /^(\t*)(typedef )?(?:\w+ )*(?:struct|union|enum)\b[^;(=]*$/;
			# "} x;" declares x, unless it names a type
			$code =~ s/^(\t*)\} (\w+(?:;|\[| =))/$1}@{[blanks(1, NAME_COLUMN)]}$2/
			  if $code =~ /^(\t*)\}/ && !($typedef{$1} // 1);
		}
		my $plain = mask_strings($code);
		$plain =~ s{/\*.*?\*/}{}g;
		$parens += ($plain =~ tr/(//) - ($plain =~ tr/)//);
	}
	if ($code =~ /\S/ && $comment ne '' && $line !~ /^\s*#\s*(?:define|include)\b|\\$/)
	{
		my $from = column_after($code);
		$comment_column = $from < COMMENT_COLUMN ? COMMENT_COLUMN : $from + TAB - $from % TAB;
		$line = $code . blanks($from, $comment_column) . $comment;
	}
	elsif ($code =~ /\S/)
	{
		$line = $comment eq '' ? $code : "$code $comment";
	}
	print "$line\n";
}
